"use strict";
(() => {
  // ---------------------------------------------------------------- tables that can be sorted
  const NUMBER = /^[<+]?(-?\d+(?:\.\d+)?)/;
  const order = new Intl.Collator("en", { numeric: true });

  /** Returns a function that compares two texts; empty ones come last in either direction. */
  function comparison(texts, sign) {
    const filled = texts.filter((text) => text);
    const isNumeric = filled.every((text) => NUMBER.test(text));
    return (a, b) => {
      if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);
      const difference = isNumeric ? NUMBER.exec(a)[1] - NUMBER.exec(b)[1] : 0;
      return sign * (difference || order.compare(a, b));
    };
  }

  function sort(button) {
    const head = button.closest("th");
    const table = head.closest("table");
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [row.cells[head.cellIndex].textContent.trim(), row]);
    const compare = comparison(rows.map(([text]) => text), direction === "ascending" ? 1 : -1);
    rows.sort(([a], [b]) => compare(a, b));
    body.append(...rows.map(([, row]) => row));
  }

  // ---------------------------------------------------------------- texts that can be copied
  function copy(button) {
    const code = button.closest(".code").querySelector("code");
    getSelection().selectAllChildren(code);
    const done = () => {
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    };
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, () => {});
  }

  document.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    if (button.classList.contains("sort")) sort(button);
    if (button.classList.contains("copy")) copy(button);
  });
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
  });

  // ---------------------------------------------------------------- the browser of images
  const source = document.getElementById("data");
  if (!source) return;
  const { sets, runs } = JSON.parse(source.textContent);
  const form = document.getElementById("browser");
  const field = form.elements;
  const DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const PAGE = 50;
  let found = [];
  let page = 0;

  const classOf = (outcomes, image) => (typeof outcomes === "string" ? DIGITS.indexOf(outcomes[image]) : outcomes[image]);
  const nameOf = (set, number) => set.names[number] ?? `class ${number}`; // one that only another network predicts
  const findingsOf = (text, names) => text.split(" ").filter(Boolean).map((number) => names[number]).join(", ") || "none";

  /** For each task: whether an outcome is right, whether an attack has fooled the network, and outcomes as text. */
  const TASKS = {
    "single-label": {
      isRight: (set, row, image) => classOf(row.o, image) === classOf(set.labels, image),
      text: (set, outcomes, image) => nameOf(set, classOf(outcomes, image)),
      label: (set, image) => nameOf(set, classOf(set.labels, image)),
    },
    "multi-label": {
      isRight: (set, row, image, clean) => (row === clean ? row.o[image] === set.labels[image] : row.o[image] === clean.o[image]),
      isFooled: (set, row, image, clean) => row.o[image] !== clean.o[image],
      text: (set, outcomes, image) => findingsOf(outcomes[image], set.names),
      label: (set, image) => findingsOf(set.labels[image], set.names),
    },
    segmentation: {
      isRight: (set, row, image) => row.o[image] >= 500,
      text: (set, outcomes, image) => `Dice ${(outcomes[image] / 1000).toFixed(3)}`,
      label: () => "",
    },
  };

  /** Returns the run that is chosen, with its images, its task, its clean row and its rows under attack. */
  function chosen() {
    const run = runs[field.run.value];
    const set = sets[run.set];
    const clean = run.rows.find((row) => row.attack === "none");
    return { run, set, task: TASKS[set.task], clean, attacks: run.rows.filter((row) => row !== clean) };
  }

  function isFooled({ set, task, clean }, row, image) {
    if (!clean) return !task.isRight(set, row, image, row);
    if (task.isFooled) return task.isFooled(set, row, image, clean);
    return task.isRight(set, clean, image, clean) && !task.isRight(set, row, image, clean);
  }

  const KINDS = {
    all: () => true,
    fooled: (view, row, image) => row !== view.clean && isFooled(view, row, image),
    "fooled-by-any": (view, row, image) => view.attacks.some((attack) => isFooled(view, attack, image)),
    robust: (view, row, image) =>
      (!view.clean || view.task.isRight(view.set, view.clean, image, view.clean)) &&
      !view.attacks.some((attack) => isFooled(view, attack, image)),
    wrong: (view, row, image) => Boolean(view.clean) && !view.task.isRight(view.set, view.clean, image, view.clean),
  };

  function hasLabel({ set }, image) {
    const label = field.label.value;
    if (label === "") return true;
    if (set.task === "single-label") return classOf(set.labels, image) === Number(label);
    return set.labels[image].split(" ").includes(label);
  }

  /** Returns whether an image's margin is at most the number that was entered, if one was. */
  function hasMargin(row, image) {
    return field.margin.value === "" || (row.margin !== undefined && row.margin[image] <= Number(field.margin.value));
  }

  function search() {
    const view = chosen();
    const row = view.run.rows[field.row.value];
    const fits = KINDS[field.kind.value];
    const name = field.file.value.trim().toLowerCase();
    found = [];
    view.set.files.forEach((file, image) => {
      const isNamed = !name || file.toLowerCase().includes(name);
      if (isNamed && hasLabel(view, image) && hasMargin(row, image) && fits(view, row, image)) found.push(image);
    });
    page = 0;
    show();
  }

  /** Returns the smallest eps at which a row's attack fools the network on an image, as text. */
  function smallestEps(view, row, image) {
    const same = view.attacks.filter((attack) => attack.attack === row.attack).sort((a, b) => a.eps - b.eps);
    const first = same.find((attack) => isFooled(view, attack, image));
    return first ? String(first.eps) : "";
  }

  function verdict(view, row, image) {
    if (row === view.clean) return view.task.isRight(view.set, row, image, view.clean) ? "right" : "wrong";
    if (isFooled(view, row, image)) return "fooled";
    return view.task.isRight(view.set, row, image, view.clean || row) ? "withstands" : "wrong before";
  }

  function columns(view, row) {
    const { set, task, clean } = view;
    const list = [["file", (image) => set.files[image]]];
    if (set.task !== "segmentation") list.push(["label", (image) => task.label(set, image)]);
    if (clean) list.push(["clean", (image) => task.text(set, clean.o, image)]);
    if (row !== clean) {
      list.push([`under ${row.head}`, (image) => task.text(set, row.o, image)]);
      list.push([`smallest eps of ${row.attack} that fools`, (image) => smallestEps(view, row, image)]);
    }
    list.push(["verdict", (image) => verdict(view, row, image)]);
    if (row.by) list.push(["by", (image) => row.by.names[row.by.of[image]] ?? ""]);
    if (row.margin) list.push(["margin", (image) => row.margin[image]]);
    if (row.queries) list.push(["queries", (image) => row.queries[image]]);
    return list;
  }

  function cell(kind, text, scope) {
    const element = document.createElement(kind);
    if (scope) element.scope = scope;
    element.textContent = text;
    return element;
  }

  function show() {
    const view = chosen();
    const list = columns(view, view.run.rows[field.row.value]);
    const table = document.getElementById("images-table");
    const head = document.createElement("tr");
    head.append(...list.map(([name]) => cell("th", name, "col")));
    table.tHead.replaceChildren(head);
    const rows = found.slice(page * PAGE, (page + 1) * PAGE).map((image) => {
      const row = document.createElement("tr");
      row.dataset.image = image;
      row.append(...list.map(([, text], place) => cell(place ? "td" : "th", text(image), place ? "" : "row")));
      return row;
    });
    table.tBodies[0].replaceChildren(...rows);
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    document.getElementById("found").textContent = `${found.length} of ${view.set.files.length} images`;
    document.getElementById("place").textContent = `page ${page + 1} of ${pages}`;
    document.getElementById("back").disabled = page === 0;
    document.getElementById("next").disabled = page + 1 >= pages;
  }

  function fill(select, options) {
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  }

  /** Offers the attacks and labels of the run that is chosen, and keeps what was chosen where it has that too. */
  function chooseRun() {
    const { run, set } = chosen();
    const head = field.row.selectedOptions[0]?.text;
    fill(field.row, run.rows.map((row, number) => [number, row.head]));
    const same = run.rows.findIndex((row) => row.head === head);
    field.row.value = same < 0 ? run.rows.length - 1 : same;
    fill(field.label, [["", "any"], ...(set.names || []).map((name, number) => [number, name])]);
    field.label.closest("label").hidden = set.task === "segmentation";
    const hasMargins = run.rows.some((row) => row.margin);
    field.margin.closest("label").hidden = !hasMargins;
    if (!hasMargins) field.margin.value = "";
    search();
  }

  fill(field.run, runs.map((run, number) => [number, run.name]));
  field.run.addEventListener("change", chooseRun);
  for (const name of ["row", "kind", "label"]) field[name].addEventListener("change", search);
  for (const name of ["margin", "file"]) field[name].addEventListener("input", search);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("back").addEventListener("click", () => { page -= 1; show(); });
  document.getElementById("next").addEventListener("click", () => { page += 1; show(); });
  chooseRun();
})();
