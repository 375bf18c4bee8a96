"""ComfyUI-DETEX: your subject in new pictures, without the sofa it was photographed on."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
