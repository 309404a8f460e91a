module example.org/berlin

go 1.19
