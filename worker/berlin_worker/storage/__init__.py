"""Redis: job records, logs, scripts, connections and the heartbeat of workers."""
