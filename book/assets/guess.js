// Guess first: what follows a question stays out of sight until the reader has guessed. Nothing is stored or sent.
// Without scripts, in print, and for whoever searches the page or follows a link into it, everything is there.
(() => {
  const prepare = (question) => {
    const hidden = [];
    for (let next = question.nextElementSibling; next && next.tagName !== "SECTION"; next = next.nextElementSibling) {
      hidden.push(next);
    }
    if (!hidden.length) return;
    const form = document.createElement("form");
    form.className = "guess-form";
    form.innerHTML =
      '<label>Your guess <input type="text" autocomplete="off" maxlength="80"></label> ' +
      '<button type="submit">Show what came out</button>';
    const said = document.createElement("p");
    said.className = "guess-said";
    said.setAttribute("role", "status");
    const open = () => {
      if (!form.isConnected) return;
      const guess = form.querySelector("input").value.trim();
      hidden.forEach((part) => part.removeAttribute("hidden"));
      said.textContent = guess ? `You guessed: ${guess}` : "";
      form.replaceWith(said);
    };
    form.addEventListener("submit", (event) => { event.preventDefault(); open(); });
    hidden.forEach((part) => {
      part.setAttribute("hidden", "until-found");
      part.addEventListener("beforematch", open);
    });
    const follow = () => {
      const aim = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (aim && hidden.some((part) => part.contains(aim))) { open(); aim.scrollIntoView(); }
    };
    window.addEventListener("hashchange", follow);
    window.addEventListener("beforeprint", open);
    question.append(form);
    follow();
  };
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".admonition.guess").forEach(prepare));
})();

// Claims stand as rows: a link to one opens it, and paper shows all of them open.
(() => {
  const follow = () => {
    const aim = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const row = aim && aim.closest("details.claim-row");
    if (row) { row.open = true; row.scrollIntoView({ block: "center" }); }
  };
  document.addEventListener("DOMContentLoaded", follow);
  window.addEventListener("hashchange", follow);
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details.claim-row").forEach((row) => { row.open = true; });
  });
})();
