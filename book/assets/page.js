// Tables that are wider than the text: they use the margin where there is one, and show on which side there is more. Arrow
// keys turn pages (the theme does that), but scroll what can be scrolled and has the focus.
(() => {
  const boxes = [...document.querySelectorAll(".table-box, .pst-scrollable-table-container")];
  const wide = window.matchMedia("(min-width: 1200px)");

  const measure = (box) => {
    const rest = box.scrollWidth - box.clientWidth;
    box.style.setProperty("--seen", `${box.clientWidth}px`);
    box.classList.toggle("more-left", box.scrollLeft > 2);
    box.classList.toggle("more-right", rest - box.scrollLeft > 2);
    // what fits needs no stop of the tab key
    if (rest > 2) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  const fit = (box) => {
    box.classList.remove("full-width");
    box.classList.toggle("full-width", wide.matches && box.scrollWidth > box.clientWidth + 2 && !box.closest("li, aside, .admonition"));
    measure(box);
  };
  const start = () => {
    for (const box of boxes) {
      fit(box);
      box.addEventListener("scroll", () => measure(box), { passive: true });
      let hidden = !box.clientWidth;
      new ResizeObserver(() => {
        if (hidden && box.clientWidth) fit(box);
        else measure(box);
        hidden = !box.clientWidth;
      }).observe(box);
    }
  };
  // what stands in the margin as soon as the theme looks hides the page's contents beside it, and where a page has none
  // the theme fails
  if (document.querySelector("div.bd-sidebar-secondary")) start();
  else window.addEventListener("load", start);
  wide.addEventListener("change", () => boxes.forEach(fit));

  window.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    for (let node = document.activeElement; node && node !== document.body; node = node.parentElement) {
      const scrolls = node.scrollWidth > node.clientWidth && ["auto", "scroll"].includes(getComputedStyle(node).overflowX);
      if (scrolls || node.isContentEditable || node.matches("summary, [role=slider], [role=tab]")) return event.stopPropagation();
    }
  }, true);
})();
