const table = document.getElementById("scores");
const numbers = new Set([3, 4, 5, 6, 7]);
document.documentElement.classList.add("js");
const dark = matchMedia("(prefers-color-scheme: dark)");
const tint = () => document.documentElement.classList.toggle("dark", dark.matches); // the name that DataTables knows
dark.addEventListener("change", tint);
tint();
const { words, texts, rows } = JSON.parse(table.dataset.records);
for (const row of rows) for (const i of texts) row[i] = words[row[i]];
const grid = new DataTable(table, {
  data: rows,
  deferRender: true,
  pageLength: 50,
  lengthMenu: [25, 50, 200, 1000],
  order: [],
  columnDefs: [
    { targets: [...numbers], className: "dt-right", defaultContent: "–", type: "num" },
    { targets: "_all", render: DataTable.render.text() },
  ],
  layout: { topStart: "pageLength", topEnd: "search", bottomStart: "info", bottomEnd: "paging" },
  language: { search: "Find", info: "_START_ to _END_ of _TOTAL_ rows", infoFiltered: "(of _MAX_)" },
  initComplete() {
    const row = table.tHead.insertRow();
    this.api().columns().every(function column(index) {
      const cell = document.createElement("td");
      row.append(cell);
      if (numbers.has(index)) return;
      const choice = document.createElement("select");
      choice.setAttribute("aria-label", `Only this ${this.header().textContent.toLowerCase()}`);
      choice.append(new Option("all", ""));
      for (const value of [...new Set(this.data().toArray())].sort()) choice.append(new Option(value || "(none)", value === "" ? "^$" : value));
      choice.addEventListener("change", () => {
        const wanted = choice.value === "^$" || choice.value === "" ? choice.value : `^${DataTable.util.escapeRegex(choice.value)}$`;
        this.search(wanted, { regex: true, smart: false }).draw();
      });
      cell.append(choice);
    });
  },
});
window.scoresTable = grid;
