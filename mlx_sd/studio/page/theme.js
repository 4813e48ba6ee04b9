// Applies the chosen colours before the first paint: a classic script, because modules run too late for that.
(() => {
  const KEY = "mlx-sd-theme";
  const root = document.documentElement;

  /** @returns {"light" | "dark"} the colours that the page shows now */
  const current = () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    return /** @type {"light" | "dark"} */ (root.dataset.theme ?? system);
  };

  const saved = localStorage.getItem(KEY);
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme-button");
    button?.addEventListener("click", () => {
      root.dataset.theme = current() === "dark" ? "light" : "dark";
      localStorage.setItem(KEY, root.dataset.theme);
    });
  });
})();
