// Two things that ComfyUI's page leaves to extensions: in the classic canvas, fold the advanced
// widgets away (right-click, "Show Advanced", brings them back; Nodes 2.0 folds them by itself),
// and show what a node has to say (its `text` output) on the node.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const isOurs = (node) => node?.comfyClass?.startsWith("DETEX");

function foldAdvanced(node) {
  const advanced = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
  if (!advanced.length) return;
  const isFolded = () => !LiteGraph.vueNodesMode && !node.showAdvanced;
  for (const widget of advanced) {
    widget.advanced = true; // puts "Show Advanced" into the node's menu
    let hidden = widget.hidden;
    Object.defineProperty(widget, "hidden", {
      get: () => hidden || isFolded(), // else the page keeps room for it
      set: (value) => (hidden = value),
      configurable: true,
    });
  }
  node.setSize([node.size[0], node.computeSize()[1]]);
}

function showText({ detail }) {
  const text = detail?.output?.text;
  if (!text || !isOurs(app.graph.getNodeById(detail.node))) return;
  api.dispatchCustomEvent("progress_text", { nodeId: String(detail.node), text: text.join("\n") });
}

app.registerExtension({
  name: "DETEX",
  setup() {
    api.addEventListener("executed", showText);
  },
  nodeCreated(node) {
    if (isOurs(node)) foldAdvanced(node);
  },
});
