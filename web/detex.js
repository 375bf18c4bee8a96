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
  const said = detail?.output?.text;
  const node = app.graph.getNodeById(detail?.node);
  if (!said || !isOurs(node)) return;
  const text = said.join("\n");
  api.dispatchCustomEvent("progress_text", { nodeId: String(detail.node), text });
  makeRoom(node, text);
}

// The classic canvas keeps room for two lines and scrolls the rest; Nodes 2.0 grows by itself.
function makeRoom(node, text) {
  const widget = node.widgets?.find((widget) => widget.type === "progressText");
  if (!widget || LiteGraph.vueNodesMode) return;
  const height = 16 * lineCount(text, node.size[0] - 60) + 40; // and its margins
  widget.options.getMinHeight = () => Math.min(height, 220); // from there on the page scrolls
  node.setDirtyCanvas(true, true);
}

function lineCount(text, width) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const lines = text.split("\n").map((line) => Math.ceil(pen.measureText(line).width / width));
  return lines.reduce((sum, count) => sum + Math.max(count, 1), 0);
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
