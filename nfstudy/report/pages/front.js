"use strict";
/* Shows the runs behind a number beside the page. What was logged enters the page as text, never as markup. */
(() => {
  const { studies, metrics, runs } = JSON.parse(document.getElementById("runs").textContent);
  const panel = document.getElementById("panel");
  const OPEN_AT_ONCE = 3;
  const FEW_POINTS = 20; // Curves of so few points show them; one point is no line.
  let opener = null;

  function make(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }

  function draw(tag, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  }

  function list(pairs, name = "") {
    const made = make("dl", { className: name });
    for (const [name, value] of pairs) if (value) made.append(make("dt", { textContent: name }), make("dd", {}, value));
    return made;
  }

  function copied(text) {
    const value = make("code", { className: "value", textContent: text });
    if (!navigator.clipboard) return value;
    const button = make("button", { type: "button", textContent: "copy" });
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    });
    return make("span", {}, value, " ", button);
  }

  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const places = Math.max(0, -Math.floor(Math.log10(step)));
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
    return found.map((value) => ({
      value,
      text: value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places }),
    }));
  }

  /* As in the report's figures, the y axis ends at the highest value after the first quarter of the updates, so that
     the start, hundreds of nats higher, does not flatten the rest. */
  function limits(points) {
    const end = Math.max(...points.map(([update]) => update));
    const late = points.filter(([update]) => update >= end / 4).map(([, value]) => value);
    const [low, high] = [Math.min(...late), Math.max(...late)];
    const margin = 0.03 * (high - low) || 1;
    return { end, low: low - margin, high: high + margin };
  }

  function chart(curves, unit) {
    const width = Math.min(640, panel.clientWidth - 76); // Of the block that it stands in, so that text keeps its size.
    const [height, left, right, top, bottom] = [300, 52, 32, 28, 64];
    const { end, low, high } = limits(Object.values(curves).flat());
    const x = (update) => left + (update / end) * (width - left - right);
    const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - bottom - top);
    const made = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img" });
    made.append(draw("title", {}, "Free energy F on the training and validation sets over the parameter updates"));
    const clip = draw("clipPath", { id: `clip-${panel.querySelectorAll("svg").length}` });
    clip.append(draw("rect", { x: left - 6, y: top, width: width - left - right + 12, height: height - bottom - top }));
    made.append(clip);
    for (const tick of ticks(low, high, 5)) {
      made.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(tick.value), y2: y(tick.value) }));
      made.append(draw("text", { x: left - 8, y: y(tick.value) + 4, "text-anchor": "end" }, tick.text));
    }
    for (const tick of ticks(0, end, Math.round(width / 120))) {
      made.append(draw("text", { x: x(tick.value), y: height - bottom + 18, "text-anchor": "middle" }, tick.text));
    }
    made.append(draw("text", { x: width - right, y: height - bottom + 36, "text-anchor": "end" }, "parameter updates"));
    made.append(draw("text", { x: 4, y: 14 }, `F (${unit})`));
    Object.entries(curves).forEach(([split, points], place) => {
      const lines = draw("g", { class: split, "clip-path": `url(#${clip.id})` });
      lines.append(draw("polyline", { points: points.map(([update, value]) => `${x(update)},${y(value)}`).join(" ") }));
      const dots = points.length <= FEW_POINTS ? points : [];
      lines.append(...dots.map(([update, value]) => draw("circle", { cx: x(update), cy: y(value), r: 3 })));
      const start = 4 + 100 * place;
      const key = draw("g", { class: split });
      key.append(draw("polyline", { points: `${start},${height - 10} ${start + 26},${height - 10}` }));
      made.append(lines, key, draw("text", { x: start + 32, y: height - 6 }, split));
    });
    return made;
  }

  function numbers(run) {
    return Object.entries(run.metrics).map(([name, value]) => [name, `${value.toString().replace("-", "−")} ${metrics[name].unit || studies[run.study].unit}: ${metrics[name].meaning}`]);
  }

  function learningCurves(run) {
    if (!run.curves) return `Of the many runs of ${studies[run.study].name}, this page holds the learning curves of a few for each cell, and not of this one.`;
    return Object.keys(run.curves).length ? chart(run.curves, studies[run.study].unit) : "It has logged no epoch.";
  }

  function commitOf(run) {
    const known = run.commit && run.commit !== "unknown";
    return make("span", {},
      known ? copied(run.commit) : "not known",
      run.dirty ? " with uncommitted changes" : "",
      known && !run.code_known ? " (changes not known)" : "",
      run.earlier_code ? ", resumed from a checkpoint of other code" : "");
  }

  function fill(block, id) {
    const run = runs[id];
    const link = run.link && make("a", { href: run.link, textContent: "on the tracking server" });
    const sections = [
      ["Learning curves", learningCurves(run)],
      ["Numbers", list(numbers(run))],
      ["Settings of its own", list(Object.entries(run.params))],
      [`Settings that all runs of ${studies[run.study].name}, budget ${studies[run.study].budget}, share`, list(Object.entries(studies[run.study].common))],
    ];
    block.append(
      list([
        ["run", copied(id)],
        ["shown", make("span", {}, make("a", { href: run.line, textContent: "in the study's report" }), link ? ", " : "", link || "")],
        ["outcome", run.reason ? `${run.outcome}: ${run.reason}` : run.outcome],
        ["attempts", `${run.attempts}`],
        ["commit", commitOf(run)],
        ["origin", run.imported && (run.imported === "checked" ? "imported from an archive" : `imported, ${run.imported}`)],
        ["data", run.data],
        ["SHA-256", run.digest && copied(run.digest)],
        ["machine", `${run.device}, threads ${run.threads}`],
        ["started", `${new Date(run.started).toISOString().slice(0, 16).replace("T", " ")} UTC`],
      ], "facts"),
    );
    for (const [title, content] of sections) block.append(make("h3", { textContent: title }), content);
  }

  function runBlock(id, open) {
    const run = runs[id];
    const told = make("span", { textContent: `${studies[run.study].name}, budget ${studies[run.study].budget}: ${run.outcome}` });
    const block = make("details", { className: "run" }, make("summary", {}, `${run.name} `, told));
    const fillOnce = () => block.childElementCount > 1 || fill(block, id);
    block.addEventListener("toggle", fillOnce);
    if (open) {
      block.open = true;
      fillOnce();
    }
    return block;
  }

  function place(link) {
    const cell = link.closest("td");
    if (!cell) return link.textContent;
    const header = cell.closest("table").tHead.rows[0].cells[cell.cellIndex].textContent;
    return `${cell.parentElement.cells[0].textContent}: ${header}`;
  }

  function show(link) {
    const ids = link.dataset.runs.split(" ").filter((id) => id in runs);
    const close = make("button", { type: "button", textContent: "close" });
    close.addEventListener("click", () => panel.close());
    const title = make("h2", { id: "panel-title", textContent: place(link) });
    const body = make("div", { className: "body" });
    panel.replaceChildren(make("header", {}, title, close), body);
    const told = (link.title || link.textContent).split("\n").filter((line) => !line.startsWith("runs: "));
    const known = [...told, `${ids.length} run${ids.length === 1 ? "" : "s"} behind it`].join("\n");
    body.append(make("p", { className: "known", textContent: known }));
    opener = link;
    panel.showModal();
    ids.forEach((id, index) => body.append(runBlock(id, ids.length <= OPEN_AT_ONCE || index === 0)));
    panel.scrollTop = 0;
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-runs]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(link);
  });
  panel.addEventListener("click", (event) => event.target === panel && panel.close());
  panel.addEventListener("close", () => opener.focus());
  for (const link of document.querySelectorAll("a[data-runs]")) link.setAttribute("aria-haspopup", "dialog");
  /* What a link leads to may be folded; on paper, the studies are not. */
  function unfold() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  }
  addEventListener("hashchange", unfold);
  unfold();
  const folded = document.querySelectorAll("details.fold");
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...folded].filter((block) => !block.open);
    for (const block of closed) block.open = true;
  });
  addEventListener("afterprint", () => {
    for (const block of closed) block.open = false;
  });
  if (matchMedia("(max-width: 69.99rem)").matches) document.querySelector(".contents details").open = false;
})();
