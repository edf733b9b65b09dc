"""How long tests wait for another process: a safety net, about ten times the usual duration, on a busy machine too."""

TIMEOUT = 1800
