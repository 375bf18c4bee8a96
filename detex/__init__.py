"""DETEX for ComfyUI: learn a subject as [V], its poses as [P_i], its backgrounds as [B_i].

The data, in the order of the files:
photos and masks (subject) -> prompts and tokens (prompt, embeddings) -> UNet forward with
attention taps (noise, attention, kv) -> losses (losses, methods) -> step (trainer)
-> concept file (concept) -> load, compose, sample, preview (host, preview).
Beside it, render is a client of ComfyUI servers: batch rendering without the page.

Shapes: B batch, N photos, H heads, L = h*w latent positions, T text tokens, C channels,
D head width, h and w latent cells, F image-feature width.

Papers: DETEX, arXiv 2312.11826; Custom Diffusion, arXiv 2212.04488.
Only `detex.host` and `nodes` import ComfyUI.
"""
