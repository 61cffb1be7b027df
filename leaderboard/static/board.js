"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const $ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, options = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), options);
    node.append(...children);
    return node;
  };

  /* State lives in the address, so that a view can be sent to a colleague. */
  const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const keep = (key, value) => {
    if (value) state.set(key, value); else state.delete(key);
    if (!state.toString() && location.hash && !location.hash.includes("=")) return; // an anchor, not a state of ours
    history.replaceState(null, "", state.toString() ? `#${state}` : location.pathname + location.search);
  };

  const value = (row, index, text) => {
    const cell = row.cells[index];
    if (text) return cell.textContent.trim().toLowerCase();
    return cell.dataset.sort === "" ? NaN : Number(cell.dataset.sort);
  };

  const sortBy = (table, head, direction) => {
    const index = head.cellIndex, text = "text" in head.dataset, sign = direction === "ascending" ? 1 : -1;
    for (const other of $("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    table.classList.add("sorted");
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("kind"));
      rows.sort((a, b) => {
        const x = value(a, index, text), y = value(b, index, text);
        if (text) return sign * x.localeCompare(y);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return sign * (x - y);
      });
      body.append(...rows);
    }
  };

  const restore = (table, order) => {
    table.classList.remove("sorted");
    for (const other of $("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    for (const [body, rows] of order) body.append(...rows);
  };

  const choose = (label, choices, now) => {
    const select = make("select", {});
    select.setAttribute("aria-label", label);
    for (const [key, title] of choices) select.append(new Option(title, key, false, key === now));
    return select;
  };

  /* Fill the main column for another slice of the clips; where every clip counts, the page's own cells come back. */
  const slicer = (table, facets) => {
    const rows = $("tbody tr[data-row]", table).map((row) => [row, facets.rows[row.dataset.row]?.parts ?? {}]);
    return (part) => {
      table.classList.toggle("sliced", part !== "all");
      for (const [row, parts] of rows) {
        const cell = parts[part], main = row.querySelector("td.main"), marks = $(".bar line.range, .bar line.dot", row);
        main.dataset.sort = cell?.sort ?? "";
        main.replaceChildren(cell?.text ?? "–", ...(cell?.under ? [make("small", { textContent: cell.under })] : []));
        row.lastElementChild.textContent = cell?.n ?? "–";
        const [low, x, high] = cell?.x ?? [0, 0, 0];
        for (const mark of marks) {
          const dot = mark.classList.contains("dot");
          mark.setAttribute("x1", `${dot ? x : low}%`);
          mark.setAttribute("x2", `${dot ? x : high}%`);
          mark.style.visibility = cell?.x ? "visible" : "hidden";
        }
      }
    };
  };

  /* Up to four rows side by side, number by number. */
  const comparer = (table, heads) => {
    const panel = document.querySelector(`[data-compare="${table.id}"]`);
    return (pinned) => {
      panel.hidden = pinned.length === 0;
      if (panel.hidden) return;
      const head = make("tr", {}, make("th", { className: "name", textContent: "Pinned" }), ...pinned.map((row) => make("th", { textContent: row.querySelector(".name bdi").textContent })));
      const body = make("tbody");
      for (const column of heads.filter((h) => h.dataset.key && h.dataset.key !== "name")) {
        const cells = pinned.map((row) => row.cells[column.cellIndex]);
        const values = cells.map((cell) => (cell.dataset.sort === "" ? NaN : Number(cell.dataset.sort)));
        const known = values.filter((v) => !Number.isNaN(v));
        if (!known.length) continue;
        const best = column.dataset.better === "low" ? Math.min(...known) : Math.max(...known);
        const line = make("tr", {}, make("th", { className: "name", scope: "row", textContent: column.title || column.textContent }));
        cells.forEach((cell, i) => line.append(make("td", { className: pinned.length > 1 && values[i] === best && column.dataset.better ? "best" : "", textContent: cell.firstChild?.textContent.trim() ?? "–" })));
        body.append(line);
      }
      panel.replaceChildren(make("table", {}, make("thead", {}, head), body));
    };
  };

  const prepare = (tools) => {
    const table = document.getElementById(tools.dataset.for), id = table.id;
    const heads = $("thead tr:last-child th", table);
    const order = [...table.tBodies].map((body) => [body, [...body.rows]]);
    const hidden = new Set((state.get(`${id}.hide`) ?? heads.filter((h) => "optional" in h.dataset).map((h) => h.dataset.key).join(",")).split(",").filter(Boolean));

    for (const head of heads.filter((h) => h.dataset.key)) {
      const button = make("button", { type: "button", textContent: head.textContent, title: head.title });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const first = "text" in head.dataset ? "ascending" : "descending", second = first === "ascending" ? "descending" : "ascending";
        const now = head.getAttribute("aria-sort");
        if (now === second) { restore(table, order); keep(`${id}.sort`, ""); return; }
        const direction = now === first ? second : first;
        sortBy(table, head, direction);
        keep(`${id}.sort`, `${head.dataset.key}.${direction}`);
      });
    }

    const search = make("input", { type: "search", placeholder: "Find an explainer", value: state.get(`${id}.q`) ?? "" });
    search.setAttribute("aria-label", "Find an explainer");
    const count = make("span", { className: "count" });
    count.setAttribute("aria-live", "polite");
    const boxes = [...table.tBodies].map((body) => {
      const box = make("input", { type: "checkbox", checked: state.get(`${id}.no-${body.className}`) !== "1" });
      return [body, box, make("label", {}, box, ` ${body.className}s`)];
    });
    const facets = JSON.parse(tools.dataset.facets);
    const part = choose("Clips", facets.parts, state.get(`${id}.clips`) ?? "all");
    const access = choose("What an explainer needs", facets.access, state.get(`${id}.access`) ?? "");
    const cost = choose("What an explanation costs", facets.costs, state.get(`${id}.cost`) ?? "");
    const slice = slicer(table, facets);
    const admitted = (row) => {
      const known = facets.rows[row.dataset.row] ?? { needs: [], seconds: null };
      const asks = known.needs.includes("gradients") ? ["gradients", "logits"] : known.needs;
      return !(access.value && asks.includes(access.value)) && !(cost.value && !(known.seconds !== null && known.seconds < Number(cost.value)));
    };
    const filter = () => {
      const wanted = search.value.trim().toLowerCase();
      keep(`${id}.access`, access.value);
      keep(`${id}.cost`, cost.value);
      let shown = 0, total = 0;
      for (const [body, box] of boxes) {
        body.hidden = !box.checked;
        for (const row of body.rows) {
          if (row.classList.contains("kind")) continue;
          row.hidden = !admitted(row) || (wanted !== "" && !row.querySelector(".name").textContent.toLowerCase().includes(wanted));
          total += 1;
          shown += !row.hidden && box.checked;
        }
        keep(`${id}.no-${body.className}`, box.checked ? "" : "1");
      }
      keep(`${id}.q`, wanted);
      count.textContent = shown === total ? `${total} rows` : `${shown} of ${total} rows`;
    };
    search.addEventListener("input", filter);
    for (const select of [access, cost]) select.addEventListener("change", filter);
    part.addEventListener("change", () => { slice(part.value); keep(`${id}.clips`, part.value === "all" ? "" : part.value); compare(chosen()); });

    const compare = comparer(table, heads);
    const rows = $("tbody tr[data-row]", table);
    const wantedPins = new Set((state.get(`${id}.pin`) ?? "").split("|").filter(Boolean));
    const chosen = () => rows.filter((row) => row.classList.contains("pinned"));
    const pin = (row, on) => {
      row.classList.toggle("pinned", on);
      row.querySelector(".pin").setAttribute("aria-pressed", String(on));
    };
    for (const row of rows) {
      const title = row.querySelector(".name bdi").textContent;
      const button = make("button", { type: "button", className: "pin", title: "Compare this row with up to three others" });
      button.setAttribute("aria-label", `Pin ${title} to compare`);
      row.querySelector(".name").prepend(button);
      pin(row, wantedPins.has(row.dataset.row) && chosen().length < 4);
      button.addEventListener("click", () => {
        const on = !row.classList.contains("pinned");
        if (on && chosen().length >= 4) pin(chosen()[0], false);
        pin(row, on);
        compare(chosen());
        keep(`${id}.pin`, chosen().map((r) => r.dataset.row).join("|"));
      });
    }
    for (const [, box] of boxes) box.addEventListener("change", filter);

    const show = () => {
      for (const head of heads) {
        if (!head.dataset.key) continue;
        const off = hidden.has(head.dataset.key);
        head.hidden = off;
        for (const body of table.tBodies) for (const row of body.rows) if (!row.classList.contains("kind")) row.cells[head.cellIndex].hidden = off;
      }
      let at = 4;
      for (const span of $("thead .span th[data-group]", table)) {
        const width = Number(span.dataset.width ?? (span.dataset.width = span.colSpan));
        const visible = heads.slice(at, at + width).filter((h) => !h.hidden).length;
        at += width;
        span.hidden = visible === 0;
        span.colSpan = Math.max(visible, 1);
      }
    };
    const menu = make("div", { className: "menu" });
    for (const head of heads.filter((h) => h.dataset.key && h.dataset.key !== "name" && !("main" in h.dataset))) {
      const box = make("input", { type: "checkbox", checked: !hidden.has(head.dataset.key) });
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(head.dataset.key); else hidden.add(head.dataset.key);
        show();
        keep(`${id}.hide`, [...hidden].join(",") || "none");
      });
      menu.append(make("label", {}, box, ` ${head.title || head.textContent}`));
    }
    const selects = [[part, facets.parts], [access, facets.access], [cost, facets.costs]].filter(([, choices]) => choices.length > 1).map(([select]) => select);
    tools.append(search, ...selects, ...boxes.map(([, , label]) => label), make("details", {}, make("summary", { textContent: "Columns" }), menu), count);
    tools.hidden = false;
    show();
    filter();
    if (part.value !== "all") slice(part.value);
    compare(chosen());
    const [key, direction] = (state.get(`${id}.sort`) ?? "").split(".");
    const head = heads.find((h) => h.dataset.key === key);
    if (head && ["ascending", "descending"].includes(direction)) sortBy(table, head, direction);
  };
  $(".tools[data-for]").forEach(prepare);
  document.addEventListener("click", (event) => { for (const open of $(".tools details[open]")) if (!open.contains(event.target)) open.open = false; });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") for (const open of $(".tools details[open]")) { open.open = false; open.firstChild.focus(); } });

  /* Several tasks or detectors on one page: show all of them, or one. */
  for (const tools of $("[data-boards]")) {
    const sections = $("section[data-board]");
    const select = choose("Task and detector", [["", "all boards"], ...sections.map((s, i) => [String(i), s.dataset.board])], state.get("board") ?? "");
    const apply = () => {
      sections.forEach((s, i) => { s.hidden = select.value !== "" && select.value !== String(i); });
      keep("board", select.value);
    };
    select.addEventListener("change", apply);
    tools.append(select);
    tools.hidden = false;
    apply();
  }

  for (const tab of $(".tabs > input")) {
    if (state.get(tab.name) === tab.dataset.recipe) tab.checked = true;
    tab.addEventListener("change", () => keep(tab.name, tab.dataset.recipe));
  }

  /* A threshold on rank: lightness rises with rank, so one filter cuts every heatmap of the page alike. */
  for (const box of $(".cut")) {
    const slide = box.querySelector("input"), told = box.querySelector("output"), cuts = JSON.parse(box.dataset.cuts);
    const edge = document.querySelector("#cut feFuncA");
    const apply = () => {
      const [share, luma] = cuts[Number(slide.value)];
      told.textContent = share;
      slide.setAttribute("aria-valuetext", `strongest ${share}`);
      edge.setAttribute("intercept", String(-400 * luma));
    };
    slide.addEventListener("input", () => { apply(); document.getElementById(slide.id.replace("slide", "cut")).checked = true; });
    apply();
  }

  /* One sound at a time, one playhead over every picture, one crosshair in all of them. */
  for (const player of $("[data-player]")) {
    const seconds = Number(player.dataset.seconds), top = Number(player.dataset.topHz), readout = player.querySelector(".readout");
    let current = null;
    const step = () => {
      if (!current || current.paused) return;
      player.style.setProperty("--t", String(Math.min(current.currentTime / seconds, 1)));
      requestAnimationFrame(step);
    };
    for (const audio of $("audio", player)) {
      const button = make("button", { type: "button", textContent: "▶ Play" });
      button.setAttribute("aria-label", `Play ${audio.getAttribute("aria-label")}`);
      button.setAttribute("aria-pressed", "false");
      audio.after(button);
      button.addEventListener("click", () => {
        if (!audio.paused) { audio.pause(); return; }
        const from = current && !current.ended && current !== audio ? current.currentTime : 0;
        if (current && current !== audio) current.pause();
        current = audio;
        if (from) audio.currentTime = from;
        audio.play();
      });
      audio.addEventListener("play", () => {
        player.classList.add("playing");
        button.setAttribute("aria-pressed", "true");
        button.textContent = "❚❚ Pause";
        requestAnimationFrame(step);
      });
      for (const kind of ["pause", "ended"]) audio.addEventListener(kind, () => {
        button.setAttribute("aria-pressed", "false");
        button.textContent = "▶ Play";
        if (current === audio && audio.ended) player.classList.remove("playing");
      });
    }
    for (const view of $(".view", player)) {
      const place = (event) => {
        const box = view.getBoundingClientRect();
        return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((v) => Math.min(Math.max(v, 0), 1));
      };
      view.addEventListener("pointermove", (event) => {
        const [x, y] = place(event);
        player.style.setProperty("--x", String(x));
        player.style.setProperty("--y", String(y));
        player.classList.add("aiming");
        if (readout) readout.textContent = `${(x * seconds).toFixed(2)} s · ${(((1 - y) * top) / 1000).toFixed(2)} kHz`;
      });
      view.addEventListener("pointerleave", () => player.classList.remove("aiming"));
      view.addEventListener("click", (event) => {
        const first = current ?? player.querySelector("audio");
        if (!first) return;
        current = first;
        first.currentTime = place(event)[0] * seconds;
        player.style.setProperty("--t", String(first.currentTime / seconds));
        player.classList.add("playing");
      });
    }
  }
})();
