"""Several event stores, picked by job ID: what workers need beyond what serves one of them."""
