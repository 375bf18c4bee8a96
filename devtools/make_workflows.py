"""Write workflows/*.json and subgraphs/*.json: `python -m devtools.make_workflows`.

Edit the descriptions in devtools/workflow_*.py, never the JSON: layout, slots and widget order
come from the node schemas of a real server.
"""

import json
from pathlib import Path
from typing import Any

from .host_process import exit_on_terminate
from .pack_host import ROOT
from .server import ComfyServer
from .subgraph_train import train_a_subject
from .workflow_export import export_concept
from .workflow_grid import prompt_grid
from .workflow_json import build
from .workflow_mix import pose_and_background, several_concepts
from .workflow_quickstart import quickstart
from .workflow_subgraph import build_blueprint
from .workflow_train import train_detex, train_folder, train_many
from .workflow_use import attention_preview, use_concept

FOLDER = ROOT / "workflows"
SUBGRAPHS = ROOT / "subgraphs"
WORKFLOWS = {
    "quickstart": quickstart,
    "train_detex": train_detex,
    "train_folder": train_folder,
    "train_many": train_many,
    "use_concept": use_concept,
    "pose_and_background": pose_and_background,
    "several_concepts": several_concepts,
    "prompt_grid": prompt_grid,
    "attention_preview": attention_preview,
    "export_concept": export_concept,
}
BLUEPRINTS = (train_a_subject,)


def read_workflow(name: str) -> dict[str, Any]:
    """A bundled workflow, as it is in the folder."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def main() -> None:
    exit_on_terminate()
    with ComfyServer() as server:
        info = server.object_info()
    for name, describe in WORKFLOWS.items():
        write(FOLDER / f"{name}.json", build(describe(), info))
    for describe in BLUEPRINTS:
        blueprint = describe()
        write(SUBGRAPHS / f"{blueprint.name}.json", build_blueprint(blueprint, info))


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
