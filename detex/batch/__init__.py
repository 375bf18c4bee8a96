"""Batches without the page: a table of jobs over one or many ComfyUI servers.

`python -m detex.batch --help`. A plain client of the servers: no ComfyUI, no torch. With one server
the standard library is enough; several, cards and clusters go through Ray.

A table (table) addresses a workflow's inputs (workflow, values), which makes jobs (job) and finds
the files to send (outbox). A run (run) hands them out by a queue (jobqueue) to servers (server,
client, card), whose calls go on in an engine: threads (engine) or Ray's actors (rays). What they
bring back is kept by content (store) and shown by row (view, sheet).
"""
