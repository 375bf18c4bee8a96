"""Batch rendering without the page: a table of jobs over one or several ComfyUI servers.

`python -m detex.batch --help`. A plain client of the servers: standard library only, no ComfyUI,
no torch.

A table (table) addresses a workflow's inputs (workflow, values), which makes jobs (job); a schedule
hands them to one worker for each server (schedule, worker, client); what they bring back is kept by
content (store) and shown by row (view).
"""
