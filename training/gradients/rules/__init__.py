"""One function per rule: evidence and readings in, findings out."""
