"""How far a replica is behind its primary."""

import redis


def caught_up(primary: redis.Redis, replica: redis.Redis) -> bool:
    """Return whether the replica has all that the primary has written."""
    written = primary.info("replication")["master_repl_offset"]
    here = replica.info("replication")
    follows = here["role"] == "slave" and here["master_link_status"] == "up"
    return bool(follows and here["slave_repl_offset"] >= written)
