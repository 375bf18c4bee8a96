// Two things that ComfyUI's page leaves to extensions: in the classic canvas, fold the advanced
// widgets away (right-click, "Show Advanced", brings them back; Nodes 2.0 folds them by itself) and
// those that the chosen training method does not have; and show what a node has to say, while it runs
// and at its end (its `text` output), on the node.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const GAP = 4; // pixels that the page leaves between widgets
const isOurs = (node) => node?.comfyClass?.startsWith("DETEX");

function foldAway(node) {
  const inputs = { ...node.constructor.nodeData?.input?.required };
  Object.assign(inputs, node.constructor.nodeData?.input?.optional);
  const chosen = node.widgets?.find(({ name }) => name === "method");
  const folds = [];
  for (const widget of node.widgets ?? []) {
    const { methods, hidden: settled } = inputs[widget.name]?.[1] ?? {};
    const advanced = widget.options?.advanced;
    if (!advanced && !methods) continue;
    if (advanced) widget.advanced = true; // puts "Show Advanced" into the node's menu
    const isOthers = () => Boolean(methods && !methods.includes(chosen?.value));
    folds.push(foldOf(node, widget, settled, isOthers));
  }
  const fold = () => folds.forEach((apply) => apply());
  fold();
  if (folds.length) fit(node);
  if (!folds.length || !chosen) return;
  after(chosen, "callback", () => (fold(), fit(node)));
  after(node, "onConfigure", fold); // a loaded workflow has chosen
}

// What hides a widget where it has to. Newer pages (1.58) fold what is advanced by themselves, and
// keep `hidden` as it is set. Each keeps room for what is folded: the older ones unless it is `hidden`,
// the newer ones unless its height is none.
function foldOf(node, widget, settled, isOthers) {
  if ("visibility" in widget) {
    const height = () => (widget.advanced && !node.showAdvanced ? -GAP : LiteGraph.NODE_WIDGET_HEIGHT);
    if (!widget.computeLayoutSize) widget.computeSize = () => [0, height()];
    return () => (widget.hidden = Boolean(settled) || isOthers());
  }
  let hidden = widget.hidden || settled;
  const isFolded = () => (widget.advanced && !node.showAdvanced) || isOthers();
  Object.defineProperty(widget, "hidden", {
    get: () => hidden || (!LiteGraph.vueNodesMode && isFolded()), // else the page keeps room
    set: (value) => (hidden = value),
    configurable: true,
  });
  return () => {};
}

function after(owner, name, then) {
  const before = owner[name];
  owner[name] = function (...given) {
    const answer = before?.apply(this, given);
    then();
    return answer;
  };
}

const fit = (node) => node.setSize([node.size[0], node.computeSize()[1]]);

// The node of an execution id: "5", or "12:5" for a node inside of a subgraph.
function nodeOf(id) {
  let graph = app.graph;
  let node = null;
  for (const part of String(id ?? "").split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return isOurs(node) ? node : null;
}

function say({ detail }) {
  const text = detail?.text ?? detail?.output?.text?.join("\n");
  const node = text === undefined ? null : nodeOf(detail.node);
  let widget = node?.widgets?.find(({ name }) => name === TEXT);
  if (!node || !(text || widget)) return;
  widget ??= addText(node);
  widget.value = text;
  widget.hidden = !text; // a warning whose cause is gone
  node.setDirtyCanvas(true, true); // the page makes room where there is none
}

const TEXT = "detex_text";
const MOST = 220; // pixels of a node's height; more text is scrolled
const MARGIN = 10; // that the page leaves around such a widget

function textBox() {
  const box = document.createElement("div");
  Object.assign(box.style, {
    font: `12px/16px ${getComputedStyle(document.body).fontFamily}`,
    padding: "6px 8px",
    overflowY: "auto",
    overflowWrap: "anywhere",
    whiteSpace: "pre-wrap",
    borderRadius: "6px",
    boxSizing: "border-box",
    color: "var(--input-text)",
    background: "var(--comfy-input-bg)",
  });
  return box;
}

function addText(node) {
  const element = textBox();
  element.className = "detex-text";
  const height = () => {
    const room = node.size[0] - 2 * MARGIN;
    return Math.min(heightOf(element.textContent, room) + 2 * MARGIN, MOST);
  };
  const widget = node.addDOMWidget(TEXT, "text", element, {
    getValue: () => element.textContent,
    setValue: (text) => (element.textContent = text),
    getMinHeight: height,
    getMaxHeight: height,
    margin: MARGIN,
    serialize: false,
  });
  widget.serialize = false; // no part of a saved workflow
  return widget;
}

let ruler = null; // a hidden box, in which a text has the height that it needs

function heightOf(text, width) {
  if (!ruler) {
    ruler = document.body.appendChild(textBox());
    Object.assign(ruler.style, { position: "absolute", visibility: "hidden", left: 0, top: 0 });
  }
  if (ruler.textContent !== text) ruler.textContent = text;
  ruler.style.width = `${width}px`;
  return ruler.offsetHeight;
}

app.registerExtension({
  name: "DETEX",
  setup() {
    api.addEventListener("executed", say);
    api.addEventListener("detex.text", say);
  },
  nodeCreated(node) {
    if (isOurs(node)) foldAway(node);
  },
});
