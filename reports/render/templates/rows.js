// Tables with very many rows: the page holds the first ones, a script beside it holds all, and is asked for at a click.
(() => {
  const STEP = 500;
  const collator = new Intl.Collator("en", { numeric: true });
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const breakable = (text) => text.split(/(?<=[_+,])(?=\w)|(?<=\w)(?=\()/)
    .flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));
  const cell = ([text, key, kind = "", note = "", struck = 0, bar = null, href = ""]) => {
    const number = typeof key === "number";
    const made = element("td", [number ? "number" : "text", kind, text.length > 40 ? "long" : text.length > 18 ? "wide" : ""].filter(Boolean).join(" "));
    if (note) made.title = note;
    const inside = href ? made.appendChild(element("a")) : made;
    if (href) inside.href = href;
    if (struck) inside.append(element("s", "", text), element("span", "sr", " flagged: " + note));
    else if (kind && kind !== "code" && kind !== "error") inside.append(element("span", "chip", text));
    else inside.append(...(number ? [text] : breakable(text)));
    if (bar) {
      const drawn = made.appendChild(element("span", kind === "error" ? "bar error" : "bar"));
      ["--v", "--lo", "--hi"].forEach((name, i) => drawn.style.setProperty(name, (100 * bar[i]).toFixed(2) + "%"));
    }
    return made;
  };
  const choice = ([text, key]) => (typeof key === "string" && text.startsWith(key) ? key : text);
  const asked = (box, table) => new Promise((resolve, reject) => {
    const script = element("script");
    script.src = box.dataset.rows;
    script.onload = () => resolve(window.robustsuiteRows[table.id]);
    script.onerror = reject;
    document.head.append(script);
  });
  for (const box of document.querySelectorAll(".table[data-rows]")) {
    const table = box.querySelector("table");
    const [said, button] = box.querySelector(".more").children;
    const [input, count] = [box.querySelector("input"), box.querySelector("output")];
    const picks = [...box.querySelectorAll("select")];
    const heads = [...table.tHead.rows[0].cells];
    let data, waiting, sorted = null, shown = STEP;
    const load = async () => {
      data ??= await (waiting ??= asked(box, table).catch(() => {
        said.textContent = `The first ${table.tBodies[0].rows.length} rows; the others stand in ${box.dataset.rows}, which is not beside this page.`;
      }));
      return data;
    };
    const show = () => {
      const { entries, rows } = data;
      const words = (input ? input.value : "").toLowerCase().split(/\s+/).filter(Boolean);
      const has = words.map((word) => entries.map((entry) => entry[0].toLowerCase().includes(word)));
      const picked = picks.filter((pick) => pick.selectedIndex > 0).map((pick) => [+pick.dataset.column, pick.value]);
      const found = rows.filter((row) => has.every((hit) => row.some((place) => hit[place]))
        && picked.every(([column, text]) => choice(entries[row[column]]) === text));
      if (sorted) {
        const key = (place) => entries[place][1];
        const order = [...new Set(rows.map((row) => row[sorted.column]))].sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          return typeof x === "number" && typeof y === "number" ? x - y || 0 : collator.compare(String(x), String(y));
        });
        const rank = new Map();
        order.forEach((place, i) => rank.set(place, i && !collator.compare(String(key(place)), String(key(order[i - 1]))) ? rank.get(order[i - 1]) : i));
        const turn = sorted.up ? 1 : -1;
        found.sort((a, b) => turn * (rank.get(a[sorted.column]) - rank.get(b[sorted.column])));
      }
      table.tBodies[0].replaceChildren(...found.slice(0, shown).map((row) => {
        const made = element("tr");
        made.append(...row.map((place) => cell(entries[place])));
        return made;
      }));
      said.textContent = found.length > shown ? `The first ${shown} of ${found.length} rows.` : `${found.length} rows.`;
      button.hidden = found.length <= shown;
      if (count) count.textContent = found.length === rows.length ? `${rows.length} rows` : `${found.length} of ${rows.length} rows`;
    };
    const again = async (change) => {
      if (!(await load())) return;
      change();
      show();
    };
    button.hidden = +box.dataset.count <= table.tBodies[0].rows.length;
    button.addEventListener("click", () => again(() => { shown += STEP; }));
    const anew = (event) => {
      event.stopPropagation();
      again(() => { shown = STEP; });
    };
    picks.forEach((pick) => pick.addEventListener("change", anew));
    // Ahead of what sorts and filters the rows that stand in a page, which here are few of them.
    box.addEventListener("input", (event) => event.target === input && anew(event), true);
    // A link such as cells.html#threat=linf has chosen already.
    const chosen = new URLSearchParams(location.hash.slice(1));
    const named = picks.filter((pick) => chosen.has(pick.name));
    named.forEach((pick) => {
      pick.value = chosen.get(pick.name);
      if (pick.selectedIndex < 0) pick.selectedIndex = 0;
    });
    box.querySelectorAll("[hidden]:not(.more *)").forEach((part) => { part.hidden = false; });
    if (named.length) again(() => {});
    box.addEventListener("click", (event) => {
      const column = heads.findIndex((head) => head.contains(event.target));
      if (column < 0) return;
      event.stopPropagation();
      again(() => {
        const up = heads[column].getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
        sorted = { column, up };
        shown = STEP;
      });
    }, true);
  }
})();
