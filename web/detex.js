// Two things that ComfyUI's page leaves to extensions: in the classic canvas, fold the advanced
// widgets away (right-click, "Show Advanced", brings them back; Nodes 2.0 folds them by itself) and
// those that the chosen training method does not have; and show what a node has to say (its `text`
// output) on the node.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const isOurs = (node) => node?.comfyClass?.startsWith("DETEX");

function foldAway(node) {
  const inputs = { ...node.constructor.nodeData?.input?.required };
  Object.assign(inputs, node.constructor.nodeData?.input?.optional);
  const chosen = node.widgets?.find(({ name }) => name === "method");
  let count = 0;
  for (const widget of node.widgets ?? []) {
    const { methods, hidden: settled } = inputs[widget.name]?.[1] ?? {};
    const advanced = widget.options?.advanced;
    if (!advanced && !methods) continue;
    count += 1;
    if (advanced) widget.advanced = true; // puts "Show Advanced" into the node's menu
    let hidden = widget.hidden || settled;
    const isFolded = () =>
      (advanced && !node.showAdvanced) || (methods && !methods.includes(chosen?.value));
    Object.defineProperty(widget, "hidden", {
      get: () => hidden || (!LiteGraph.vueNodesMode && isFolded()), // else the page keeps room
      set: (value) => (hidden = value),
      configurable: true,
    });
  }
  if (count) fit(node);
  if (!count || !chosen) return;
  const changed = chosen.callback;
  chosen.callback = function (...given) {
    const answer = changed?.apply(this, given);
    fit(node);
    return answer;
  };
}

const fit = (node) => node.setSize([node.size[0], node.computeSize()[1]]);

function showText({ detail }) {
  const text = detail?.output?.text;
  if (!text || !isOurs(app.graph.getNodeById(detail.node))) return;
  api.dispatchCustomEvent("progress_text", { nodeId: String(detail.node), text: text.join("\n") });
}

// The classic canvas keeps room for one line and scrolls the rest; Nodes 2.0 grows by itself. The
// page's own listener comes first, so its widget is there.
function makeRoom({ detail }) {
  const node = app.graph.getNodeById(detail?.nodeId);
  const shown = isOurs(node) && node.widgets?.find(({ name }) => name === "$$node-text-preview");
  if (!shown) return;
  // As the page's TextPreviewWidget draws it: lines of 16 pixels, at most 200, and its margins.
  const height = () => 16 * lineCount(shown.value, node.size[0] - 60) + 40;
  shown.options.getMinHeight = () => Math.min(height(), 220);
  node.setDirtyCanvas(true, true);
}

const pen = document.createElement("canvas").getContext("2d");

function lineCount(text, width) {
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const counts = text // wrapped anywhere, not between words
    .split("\n")
    .map((line) => Math.max(1, Math.ceil(pen.measureText(line).width / width)));
  return counts.reduce((sum, count) => sum + count, 0);
}

app.registerExtension({
  name: "DETEX",
  setup() {
    api.addEventListener("executed", showText);
    api.addEventListener("progress_text", makeRoom);
  },
  nodeCreated(node) {
    if (isOurs(node)) foldAway(node);
  },
});
