"""HTTP/1.1 as bytes: heads in, heads out, chunks.  No socket; it knows nothing of who may do what."""
