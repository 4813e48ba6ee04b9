/** Two pictures side by side or one over the other, with the settings in which they differ. */

import { el, slider } from "./dom.js";
import { complain, openDialog } from "./dialogs.js";
import { details } from "./picture_dialog.js";
import { galleryPath, showPicture } from "./server.js";
import { differences } from "./words.js";

/** Opens the comparison of two pictures. @param {string} first @param {string} second */
export async function openComparison(first, second) {
  try {
    const [one, other] = await Promise.all([details(first), details(second)]);
    show(first, second, differences(one.request ?? {}, other.request ?? {}));
  } catch (error) {
    complain(error);
  }
}

/** @param {string} first @param {string} second @param {ReturnType<typeof differences>} rows */
function show(first, second, rows) {
  const [one, other] = [first, second].map((name, index) => {
    const image = el("img", { alt: index ? "Second picture" : "First picture" });
    showPicture(image, galleryPath(name));
    return image;
  });
  const pair = el(
    "div",
    { class: "compare-pair" },
    el("figure", {}, one, el("figcaption", { text: "First" })),
    el("figure", { class: "upper" }, other, el("figcaption", { text: "Second" })),
  );
  const edge = slider({ label: "How much of the second picture shows", min: 0, max: 100, value: 50 });
  edge.addEventListener("input", () => pair.style.setProperty("--edge", `${edge.value}%`));
  const over = el("input", { type: "checkbox", class: "check" });
  const sliderRow = el("div", { class: "compare-slider", hidden: true }, edge);
  over.addEventListener("change", () => {
    pair.classList.toggle("over", over.checked);
    sliderRow.hidden = !over.checked;
  });
  const table = rows.length
    ? el(
        "table",
        { class: "compare-table" },
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            el("th", { scope: "col", text: "Differs in" }),
            el("th", { scope: "col", text: "First" }),
            el("th", { scope: "col", text: "Second" }),
          ),
        ),
        el(
          "tbody",
          {},
          ...rows.map((row) =>
            el(
              "tr",
              {},
              el("th", { scope: "row", text: row.title }),
              el("td", { text: row.first }),
              el("td", { text: row.second }),
            ),
          ),
        ),
      )
    : el("p", { class: "hint", text: "All settings that the files record are the same." });
  openDialog({
    title: "Compare",
    class: "compare",
    body: [
      pair,
      el("label", { class: "check-row" }, over, el("span", { text: "One over the other" })),
      sliderRow,
      table,
    ],
  });
}
