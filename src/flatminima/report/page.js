"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const fine = matchMedia("(pointer: fine)").matches;
  const types = { f4: Float32Array, f8: Float64Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array };
  const hiddenMethods = new Set();
  let singles = false;
  let printing = false;

  // Typed arrays arrive as base64; a table of numbers becomes an array of rows.
  function decode(value) {
    if (Array.isArray(value)) return value.map(decode);
    if (value === null || typeof value !== "object") return value;
    if (value.bdata !== undefined) {
      const bytes = Uint8Array.from(atob(value.bdata), (letter) => letter.charCodeAt(0));
      const flat = new types[value.dtype](bytes.buffer);
      const shape = String(value.shape ?? flat.length).split(",").map(Number);
      if (shape.length === 1) return flat;
      return Array.from({ length: shape[0] }, (_, row) => flat.subarray(row * shape[1], (row + 1) * shape[1]));
    }
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, decode(item)]));
  }

  const sizes = new ResizeObserver((changes) => {
    for (const { target, contentRect } of changes) {
      const { width, height } = target._fullLayout;
      const same = Math.abs(contentRect.width - width) < 1 && Math.abs(contentRect.height - height) < 1;
      if (contentRect.width > 0 && !same) Plotly.Plots.resize(target);
    }
  });

  const theme = () => data.templates[dark.matches && !printing ? "dark" : "light"];
  const drawing = (plot) => data.plates[plot.dataset.plate].views[plot.dataset.view][plot.dataset.panel];

  function visible(plot) {
    const figure = plot.closest("figure");
    const off = new Set(all(".legend [aria-pressed=false]", figure).map((button) => button.dataset.group));
    return drawing(plot).data.map((trace) => {
      const group = trace.legendgroup;
      return !hiddenMethods.has(group) && !off.has(group) && (!trace.meta?.single || singles);
    });
  }

  async function draw(plot) {
    const panel = drawing(plot);
    const shown = visible(plot);
    const traces = decode(panel.data).map((trace, place) => ({ ...trace, visible: shown[place] }));
    const layout = panel.layout;
    const plain = panel.layout.scene === undefined;
    const mode = plain ? { dragmode: fine ? "zoom" : false } : {};
    await Plotly.newPlot(plot, traces, { ...layout, ...mode, showlegend: false, template: theme() },
      { displayModeBar: false, scrollZoom: false });
    if (panel.frames?.length) await Plotly.addFrames(plot, decode(panel.frames));
    plot.dataset.drawn = "true";
    sizes.observe(plot);
    if (!plain) link(plot);
    if (layout.sliders) follow(plot);
  }

  const drawn = () => all(".plot[data-drawn]");
  const refresh = (plots) => plots.forEach((plot) => Plotly.restyle(plot, { visible: visible(plot) }));

  // Surfaces of one figure turn together.
  function link(plot) {
    const turn = (change) => {
      const camera = change["scene.camera"];
      if (!camera || plot.dataset.turned) return;
      for (const other of all(".plot[data-view=deep][data-drawn]", plot.closest("figure"))) {
        if (other === plot) continue;
        other.dataset.turned = "true";
        Plotly.relayout(other, { "scene.camera": camera }).then(() => delete other.dataset.turned);
      }
    };
    plot.on("plotly_relayout", turn);
    plot.on("plotly_relayouting", turn);
  }

  // The sliders of one figure move together.
  function follow(plot) {
    plot.on("plotly_sliderchange", ({ step, interaction }) => {
      if (!interaction) return;
      for (const other of all(`.plot[data-view=${plot.dataset.view}][data-drawn]`, plot.closest("figure"))) {
        if (other === plot || !other.layout.sliders) continue;
        Plotly.relayout(other, { "sliders[0].active": step._index });
        Plotly.animate(other, ...step.args);
      }
    });
  }

  function show(figure, view) {
    all(".views button", figure).forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === view)));
    all(".panels", figure).forEach((panels) => { panels.hidden = panels.dataset.view !== view; });
    const plots = all(`.plot[data-view=${view}]`, figure);
    return Promise.all(plots.filter((plot) => !plot.dataset.drawn).map(draw));
  }

  function toggle(button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    return on;
  }

  function filter(button) {
    const method = button.dataset.filter;
    if (toggle(button)) hiddenMethods.delete(method); else hiddenMethods.add(method);
    all("[data-method]").forEach((part) => { part.hidden = hiddenMethods.has(part.dataset.method); });
    refresh(drawn());
  }

  // With a line per run, hover tells the nearest one; a list of all would hide the figure.
  function showSingles(button) {
    singles = toggle(button);
    const plots = drawn().filter((plot) => drawing(plot).data.some((trace) => trace.meta?.single));
    refresh(plots);
    plots.forEach((plot) => Plotly.relayout(plot, { hovermode: singles ? "closest" : "x unified" }));
  }

  function save(name, href) {
    const link = document.createElement("a");
    link.href = href;
    link.download = name;
    link.click();
  }
  const saveText = (name, text) => {
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    save(name, url);
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };

  // One SVG per panel, light and with its legend, whatever the page looks like.
  async function saveSvg(figure) {
    const view = all(".panels", figure).find((panels) => !panels.hidden);
    for (const plot of all(".plot", view)) {
      const panel = drawing(plot);
      const name = plot.closest(".panel").dataset.method;
      const heading = plot.closest(".panel").querySelector("h4")?.textContent;
      const title = data.plates[plot.dataset.plate].title + (heading ? ` (${heading})` : "");
      const shown = visible(plot);
      const traces = decode(panel.data).map((trace, place) => ({ ...trace, visible: shown[place] }));
      const camera = plot.layout?.scene?.camera;
      const layout = { ...panel.layout, template: data.templates.light, showlegend: true, paper_bgcolor: "white",
        title: { text: title, x: 0.02, xanchor: "left", font: { size: 17 } }, margin: { ...panel.layout.margin, t: 84 } };
      if (camera) layout.scene = { ...panel.layout.scene, camera };
      const size = { width: 860, height: 560 };
      const url = await Plotly.toImage({ data: traces, layout }, { format: "svg", ...size });
      save([figure.id, name, "svg"].filter(Boolean).join(".").replace(/\.(?=[^.]*\.)/g, "-"), url);
    }
  }

  // Every number that is drawn, a line each.
  function saveRows(figure) {
    const quote = (cell) => /[",\n]/.test(cell) ? `"${String(cell).replace(/"/g, '""')}"` : cell;
    const lines = [["panel", "series", "x", "y", "z"]];
    for (const panel of data.plates[figure.id].views.deep) {
      for (const trace of decode(panel.data)) {
        const name = [panel.layout.meta ?? "", trace.name];
        if (trace.z && trace.type !== "scatter3d") trace.z.forEach((row, j) => row.forEach((z, i) => lines.push([...name, trace.x[i], trace.y[j], z])));
        else trace.x.forEach((x, i) => lines.push([...name, x, trace.y[i], trace.z?.[i] ?? ""]));
      }
    }
    saveText(`${figure.id}.csv`, lines.map((line) => line.map(quote).join(",")).join("\n") + "\n");
  }

  // Every run, by method, network, radius and whatever else there are a few of.
  const PICKS = ["method", "case", "model", "rho", "stage", "status"];
  const ROWS = 100;
  const picked = {};
  let runs = null;

  function parsed(text) {
    const cells = /("(?:[^"]|"")*"|[^,\n]*)(,|\n|$)/g;
    const lines = [[]];
    for (const [, cell, end] of text.matchAll(cells)) {
      lines.at(-1).push(cell.startsWith('"') ? cell.slice(1, -1).replace(/""/g, '"') : cell);
      if (end === "\n") lines.push([]);
      if (end === "") break;
    }
    return lines.filter((line) => line.length > 1);
  }

  const chosen = () => runs.lines.filter((line) => Object.entries(picked).every(([at, value]) => line[at] === value));

  function element(name, text, parent) {
    const made = document.createElement(name);
    made.textContent = text;
    return parent.appendChild(made);
  }

  function listRuns() {
    const lines = chosen();
    const table = document.querySelector("table.runs");
    table.replaceChildren();
    const head = element("tr", "", element("thead", "", table));
    runs.shown.forEach((at) => { element("th", runs.header[at].replaceAll("_", " "), head).scope = "col"; });
    const body = element("tbody", "", table);
    for (const line of lines.slice(0, ROWS)) {
      const row = element("tr", "", body);
      runs.shown.forEach((at, place) => {
        const number = /^-?[\d.]+(e-?\d+)?$/.test(line[at]) && line[at].length > 6 && place > 0;
        const cell = element(place ? "td" : "th", number ? String(Number(Number(line[at]).toPrecision(4))) : line[at], row);
        cell.dataset.head = runs.header[at].replaceAll("_", " ");
      });
    }
    const few = lines.length > ROWS ? `, the first ${ROWS} listed` : "";
    document.querySelector("[data-told=runs]").textContent = `${lines.length} of ${runs.lines.length} runs${few}.`;
  }

  function startRuns() {
    const bar = document.querySelector(".picks");
    if (!bar) return;
    const [header, ...lines] = parsed(data.files.runs);
    const shown = header.map((_, at) => at).filter((at) => lines.some((line) => line[at] !== ""));
    runs = { header, lines, shown };
    for (const name of PICKS) {
      const at = header.indexOf(name);
      const values = [...new Set(lines.map((line) => line[at]))].filter((value) => value !== undefined);
      if (at < 0 || values.length < 2) continue;
      const label = element("label", `${name} `, bar);
      const select = element("select", "", label);
      select.dataset.pick = at;
      element("option", "all", select).value = "";
      if (name === "rho") values.sort((one, other) => one - other);
      for (const value of values) element("option", value || "none", select).value = `=${value}`;
    }
    listRuns();
  }

  document.addEventListener("change", ({ target }) => {
    if (!target.matches("[data-pick]")) return;
    if (target.value) picked[target.dataset.pick] = target.value.slice(1);
    else delete picked[target.dataset.pick];
    listRuns();
  });

  function savePicked() {
    const quote = (cell) => /[",\n]/.test(cell) ? `"${cell.replace(/"/g, '""')}"` : cell;
    saveText("runs.csv", [runs.header, ...chosen()].map((line) => line.map(quote).join(",")).join("\n") + "\n");
  }

  const actions = {
    "[data-picked]": savePicked,
    "[data-filter]": filter,
    "[data-singles]": showSingles,
    "[data-group]": (button) => { toggle(button); refresh(all(".plot[data-drawn]", button.closest("figure"))); },
    ".views [data-view]": (button) => show(button.closest("figure"), button.dataset.view),
    "[data-file]": (button) => saveText(`${button.dataset.file}.csv`, data.files[button.dataset.file]),
    "[data-svg]": (button) => saveSvg(button.closest("figure")),
    "[data-rows]": (button) => saveRows(button.closest("figure")),
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const match = button && Object.keys(actions).find((selector) => button.matches(selector));
    if (match) actions[match](button);
  });

  const restyle = () => drawn().forEach((plot) => Plotly.relayout(plot, { template: theme() }));
  dark.addEventListener("change", restyle);

  const deepFigures = () => all(".plate").filter((figure) => figure.querySelector(".views"));

  // Paper has no depth and no dark: contours, in light, at the size they have there.
  addEventListener("beforeprint", () => {
    printing = true;
    document.documentElement.classList.add("paper");
    for (const figure of deepFigures()) {
      figure.dataset.before = figure.querySelector(".views [aria-pressed=true]").dataset.view;
      show(figure, "flat");
    }
    for (const plot of drawn().filter((one) => one.clientWidth > 0)) {
      Plotly.relayout(plot, { template: theme(), width: plot.clientWidth, height: plot.clientHeight });
    }
  });
  addEventListener("afterprint", () => {
    printing = false;
    document.documentElement.classList.remove("paper");
    for (const figure of deepFigures()) show(figure, figure.dataset.before);
    drawn().forEach((plot) => Plotly.relayout(plot, { template: theme(), width: null, height: null, autosize: true }));
  });

  const deep = Boolean(document.createElement("canvas").getContext("webgl"));
  async function start() {
    startRuns();
    for (const figure of all(".plate")) {
      const views = figure.querySelector(".views");
      if (views && !deep) views.hidden = true;
      await show(figure, views && !deep ? "flat" : "deep");
    }
    document.documentElement.dataset.drawn = String(drawn().length);
  }
  start();
})();
