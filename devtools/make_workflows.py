"""Write workflows/*.json: `python -m devtools.make_workflows`.

Edit the descriptions in devtools/workflow_*.py, never the JSON: layout, slots and widget order
come from the node schemas of a real server.
"""

import json

from .pack_host import ROOT
from .server import ComfyServer
from .workflow_json import build
from .workflow_quickstart import quickstart
from .workflow_train import train_detex
from .workflow_use import attention_preview, use_concept

FOLDER = ROOT / "workflows"
WORKFLOWS = {
    "quickstart": quickstart,
    "train_detex": train_detex,
    "use_concept": use_concept,
    "attention_preview": attention_preview,
}


def main() -> None:
    with ComfyServer() as server:
        info = server.object_info()
    for name, describe in WORKFLOWS.items():
        text = json.dumps(build(describe(), info), indent=1)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
