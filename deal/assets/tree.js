// The search tree: every node is a candidate, its children those of the decision after
// it. A node shows nothing of what follows (0), what the search took (1), or all (2).
"use strict";
(function () {
  const FOLDED = 0, TAKEN = 1, ALL = 2, ROW = 24, COLUMN = 160, LABEL = 16;
  const nodes = JSON.parse(document.getElementById("data").textContent).nodes;
  nodes.forEach(function (node, i) {
    node.id = i;
    node.children = [];
    if (i > 0) nodes[node.parent].children.push(node);
  });
  const layout = d3.tree().nodeSize([ROW, COLUMN]);
  const svg = d3.select("svg"), view = svg.append("g");
  const links = view.append("g"), marks = view.append("g");
  const zoom = d3.zoom().scaleExtent([0.02, 4]).on("zoom", function () {
    view.attr("transform", d3.event.transform);
  });
  svg.call(zoom).on("dblclick.zoom", null);
  let drawn = [], focused = 0;

  function isTaken(node) { return node.kind === "chosen"; }

  function shown(node) {
    if (node.open === FOLDED || node.children.length === 0) return null;
    return node.open === ALL ? node.children : node.children.filter(isTaken);
  }

  function nHidden(node) {
    return node.children.length - (shown(node) || []).length;
  }

  // What a click does: first everything, then nothing, then what was taken.
  function toggle(node) {
    if (node.children.length === 0) return;
    const isWhole = node.children.every(isTaken);
    if (node.open === ALL) node.open = FOLDED;
    else node.open = node.open === FOLDED && !isWhole && node.children.some(isTaken)
      ? TAKEN : ALL;
  }

  function label(node) {
    return node.label.length > LABEL ? node.label.slice(0, LABEL - 1) + "…" : node.label;
  }

  function spoken(node) {
    return node.label + ", " + node.details.map(function (row) {
      return row[0] + " " + row[1];
    }).join(", ");
  }

  function tell(node) {
    const aside = d3.select("aside");
    aside.text("");
    aside.append("h2").text(node.label);
    const list = aside.append("dl");
    node.details.forEach(function (row) {
      list.append("dt").text(row[0]);
      list.append("dd").text(row[1]);
    });
  }

  function draw() {
    const root = layout(d3.hierarchy(nodes[0], shown));
    drawn = root.descendants();
    links.selectAll("path").data(root.links(), function (d) { return d.target.data.id; })
      .join("path")
      .attr("class", function (d) {
        return "link " + (isTaken(d.target.data) ? "chosen" : "");
      })
      .attr("d", function (d) {
        const x0 = d.source.y, x1 = d.target.y, y0 = d.source.x, y1 = d.target.x;
        const middle = x1 - COLUMN / 4;
        return "M" + x0 + "," + y0 + "H" + (x1 - COLUMN / 2) + "C" + middle + "," + y0 +
          " " + middle + "," + y1 + " " + x1 + "," + y1;
      });
    const node = marks.selectAll("g.node")
      .data(drawn, function (d) { return d.data.id; })
      .join(function (enter) {
        const g = enter.append("g").attr("role", "treeitem");
        g.append("circle").attr("r", 6);
        g.append("text").attr("class", "label").attr("x", 11).attr("dy", "-0.35em");
        g.append("text").attr("class", "more").attr("x", 11).attr("dy", "0.85em");
        return g.on("click", function (d) { focused = d.data.id; act(d.data); })
          .on("mouseenter", function (d) { tell(d.data); })
          .on("focus", function (d) { focused = d.data.id; tell(d.data); })
          .on("keydown", press);
      });
    node.attr("class", function (d) {
      return "node " + d.data.kind + (d.data.changed ? " changed" : "") +
        (d.data.result ? " result" : "");
    })
      .attr("data-id", function (d) { return d.data.id; })
      .attr("transform", function (d) { return "translate(" + d.y + "," + d.x + ")"; })
      .attr("tabindex", function (d) { return d.data.id === focused ? 0 : -1; })
      .attr("aria-level", function (d) { return d.depth + 1; })
      .attr("aria-expanded", function (d) {
        return d.data.children.length ? String(d.data.open !== FOLDED) : null;
      })
      .attr("aria-label", function (d) { return spoken(d.data); });
    node.select(".label").text(function (d) { return label(d.data); });
    node.select(".more").text(function (d) {
      return nHidden(d.data) > 0 ? "+" + nHidden(d.data) : "";
    });
  }

  function act(node) {
    toggle(node);
    draw();
    tell(node);
    focus(node.id);
  }

  function find(id) {
    return drawn.find(function (d) { return d.data.id === id; });
  }

  // Moves there, and the picture with it where it lies outside.
  function focus(id) {
    const at = find(id), box = svg.node().getBoundingClientRect();
    if (!at) return;
    focused = id;
    marks.selectAll("g.node").attr("tabindex", function (d) {
      return d.data.id === id ? 0 : -1;
    });
    const found = marks.selectAll("g.node").filter(function (d) {
      return d.data.id === id;
    }).node();
    found.focus({ preventScroll: true });
    const place = d3.zoomTransform(svg.node()).apply([at.y, at.x]);
    if (place[0] < 20 || place[0] > box.width - COLUMN ||
        place[1] < 20 || place[1] > box.height - 20)
      svg.call(zoom.translateTo, at.y, at.x);
  }

  function press(d) {
    const event = d3.event, level = drawn.filter(function (e) {
      return e.depth === d.depth;
    }).sort(function (a, b) { return a.x - b.x; });
    const place = level.indexOf(d);
    let to = null;
    if (event.key === "Enter" || event.key === " ") act(d.data);
    else if (event.key === "ArrowLeft") to = d.parent;
    else if (event.key === "ArrowUp") to = level[place - 1];
    else if (event.key === "ArrowDown") to = level[place + 1];
    else if (event.key === "Home") to = drawn[0];
    else if (event.key === "End") to = drawn[drawn.length - 1];
    else if (event.key === "+") svg.call(zoom.scaleBy, 1.3);
    else if (event.key === "-") svg.call(zoom.scaleBy, 1 / 1.3);
    else if (event.key === "ArrowRight") {
      if (!d.children && d.data.children.length) act(d.data);
      else if (d.children)
        to = d.children.find(function (c) { return isTaken(c.data); }) || d.children[0];
    } else return;
    event.preventDefault();
    if (to) focus(to.data.id);
  }

  function fit() {
    const box = svg.node().getBoundingClientRect();
    const xs = drawn.map(function (d) { return d.y; });
    const ys = drawn.map(function (d) { return d.x; });
    const x0 = Math.min.apply(null, xs), y0 = Math.min.apply(null, ys);
    const width = Math.max.apply(null, xs) - x0 + COLUMN;
    const height = Math.max.apply(null, ys) - y0 + 2 * ROW;
    // No smaller than can be read; the rest is a drag away.
    const scale = Math.max(0.85, Math.min(1.2, box.width / width, box.height / height));
    const top = Math.max(ROW * scale, (box.height - height * scale) / 2 + ROW * scale);
    svg.call(zoom.transform, d3.zoomIdentity
      .translate(30 - x0 * scale, top - y0 * scale).scale(scale));
  }

  function openAll(state) {
    nodes.forEach(function (node) { node.open = state; });
  }

  // At first: all candidates of the first decisions, and the way to the end.
  function begin() {
    openAll(TAKEN);
    for (let node = nodes[0], n = 0; node && n < 3; n++) {
      node.open = ALL;
      node = node.children.find(function (c) { return c.result; });
    }
  }

  d3.select("#taken").on("click", function () { openAll(TAKEN); draw(); fit(); });
  d3.select("#all").on("click", function () { openAll(ALL); draw(); fit(); });
  d3.select("#fold").on("click", function () { openAll(FOLDED); draw(); fit(); });
  d3.select("#fit").on("click", fit);
  begin();
  draw();
  fit();
  window.addEventListener("load", fit); // a frame has its size by then
  tell(nodes[0]);
})();
