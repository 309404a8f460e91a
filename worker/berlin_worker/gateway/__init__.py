"""HTTP in front of the queue: jobs, server-sent events, and the OpenAI dialect."""
