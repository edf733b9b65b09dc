"""The fault campaign: runs that are killed, damaged or out of disk must resume, or say how to fix it."""
