// What a reader might do with a report, and what comes of it: told in a script element, read by the test.
"use strict";
addEventListener("load", async () => {
  const until = async (test) => { while (!test()) await new Promise((next) => setTimeout(next, 50)); };
  const plot = (figure, at = 0) => document.querySelectorAll(`#${figure} .plot`)[at];
  const shown = (figure, group, single) => plot(figure).data.filter((trace) => trace.legendgroup === group
    && Boolean(trace.meta?.single) === single && trace.visible === true).length;
  const click = (selector) => document.querySelector(selector).click();
  const saved = [];
  HTMLAnchorElement.prototype.click = function () { saved.push([this.download, this.href.split(":")[0]]); };
  await until(() => document.documentElement.dataset.drawn);
  const told = { before: shown("slice", "sam", false), hiddenRuns: shown("slice", "sam", true) };
  click("[data-singles]");
  told.singles = shown("slice", "sam", true);
  click('[data-filter="sam"]');
  told.filtered = shown("slice", "sam", false);
  told.others = shown("slice", "sgd", false);
  told.row = document.querySelector('.methods tr[data-method="sam"]').hidden;
  click('[data-filter="sam"]');
  click('#slice [data-group="sgd"]');
  told.legend = [shown("slice", "sgd", false), shown("training-loss", "sgd", false)];
  await Plotly.relayout(plot("landscape"), { "scene.camera.eye": { x: 2, y: 0.5, z: 0.4 } });
  plot("landscape").emit("plotly_relayout", { "scene.camera": { eye: { x: 2, y: 0.5, z: 0.4 } } });
  await until(() => plot("landscape", 1)._fullLayout.scene.camera.eye.x === 2);
  told.camera = plot("landscape", 1)._fullLayout.scene.camera.eye.z;
  click('#landscape [data-view="flat"]');
  await until(() => document.querySelectorAll("#landscape .contourlayer, #landscape .contour").length >= 2);
  told.flat = document.querySelector('#landscape .panels[data-view="deep"]').hidden;
  const pick = (at, value) => {
    const select = document.querySelectorAll(".picks select")[at];
    select.value = value;
    select.dispatchEvent(new Event("change", { bubbles: true }));
    return document.querySelectorAll(".runs tbody tr").length;
  };
  const names = [...document.querySelectorAll(".picks label")].map((label) => label.firstChild.textContent.trim());
  told.picks = [names, pick(0, "=sam"), pick(1, "=0.05"), pick(0, ""), pick(1, "")];
  for (const selector of ['[data-file="methods"]', "#slice [data-rows]", "#slice [data-svg]", "[data-picked]"]) click(selector);
  await until(() => saved.length === 4);
  told.saved = saved;
  const note = document.createElement("script");
  note.id = "told"; note.type = "application/json"; note.textContent = JSON.stringify(told);
  document.body.append(note);
});
