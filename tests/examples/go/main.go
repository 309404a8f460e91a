// Submit a job through the gateway and follow it with the standard library: go run . "Hello"
// Environment: BASE_URL, GATEWAY_KEY. Prints the answer.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
)

type object = map[string]any

func call(method, path, lastEventID string, body any) *http.Response {
	data, _ := json.Marshal(body)
	request, _ := http.NewRequest(method, os.Getenv("BASE_URL")+path, bytes.NewReader(data))
	request.Header.Set("Authorization", "Bearer "+os.Getenv("GATEWAY_KEY"))
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Last-Event-ID", lastEventID)
	response, err := http.DefaultClient.Do(request)
	if err != nil || response.StatusCode >= 300 {
		log.Fatal(method, " ", path, ": ", response, err)
	}
	return response
}

func main() {
	messages := []object{{"role": "user", "content": os.Args[1]}}
	var accepted struct{ Events string }
	json.NewDecoder(call("POST", "/v1/jobs", "", object{"messages": messages}).Body).Decode(&accepted)
	text, seq := "", ""
	for { // a stream that breaks off is continued after its last event
		lines := bufio.NewReader(call("GET", accepted.Events, seq, nil).Body)
		for line, err := lines.ReadString('\n'); err == nil; line, err = lines.ReadString('\n') {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			var event struct{ Type, Content string }
			if name == "id" {
				seq = value
			} else if name != "data" || json.Unmarshal([]byte(value), &event) != nil {
				continue
			}
			switch event.Type {
			case "chunk":
				text += event.Content
			case "reset":
				text = ""
			case "completed":
				fmt.Println(text)
				return
			case "failed", "cancelled":
				log.Fatal(value)
			}
		}
	}
}
