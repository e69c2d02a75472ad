// Search results with the places where the words stand, from texts that were loaded with the search page: nothing is
// fetched, so that it works from a disk. Which pages match, Sphinx says.
(() => {
  const MOST = 3; // places of a page
  const AROUND = 110; // characters shown on either side of a word

  const made = (name, text, inside) => {
    const element = document.createElement(name);
    if (text) element.textContent = text;
    if (inside) inside.append(element);
    return element;
  };

  // A word as written and its stem begin alike; what begins so is taken for the same word.
  const pattern = (words) => {
    const stemmer = new Stemmer();
    const starts = words.map((word) => {
      const stem = stemmer.stemWord(word);
      let same = 0;
      while (same < word.length && word[same] === stem[same]) same += 1;
      return word.slice(0, Math.max(same, 2)).replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    });
    return new RegExp(`(?<![\\p{L}\\p{N}])(?:${starts.join("|")})[\\p{L}\\p{N}]*`, "giu");
  };

  // The words around the first match, with all matches there marked.
  const excerpt = (text, found) => {
    const first = text.search(found);
    let start = Math.max(0, first - AROUND);
    let end = Math.min(text.length, first + 2 * AROUND);
    while (start > 0 && text[start - 1] !== " ") start -= 1;
    while (end < text.length && text[end] !== " ") end += 1;
    const shown = made("span");
    shown.className = "excerpt";
    shown.append(start > 0 ? "… " : "");
    const cut = text.slice(start, end);
    let last = 0;
    for (const match of cut.matchAll(found)) {
      shown.append(cut.slice(last, match.index));
      made("mark", match[0], shown);
      last = match.index + match[0].length;
    }
    shown.append(cut.slice(last), end < text.length ? " …" : "");
    return shown;
  };

  const places = (page, found) =>
    (PAGE_TEXTS[page] || [])
      .map(([anchor, heading, text]) => ({
        anchor, heading, text,
        kinds: new Set([...`${heading} ${text}`.matchAll(found)].map((match) => match[0].toLowerCase())).size,
        count: [...text.matchAll(found)].length,
      }))
      .filter((place) => place.count)
      .sort((one, other) => other.kinds - one.kinds || other.count - one.count)
      .slice(0, MOST);

  Search.query = (query) => {
    const [asked, terms, excluded, highlighted, objects] = Search._parseQuery(query);
    const results = Search._performSearch(asked, terms, excluded, highlighted, objects).reverse();
    const pages = [...new Set(results.map((result) => result[0]))].filter((page) => page in PAGE_TEXTS);
    const found = pattern([...highlighted]);
    for (const page of pages) {
      const address = `${page}.html`;
      const item = made("li", "", Search.output);
      made("a", Search._index.titles[Search._index.docnames.indexOf(page)], item).href = address;
      const names = results.filter((result) => result[0] === page && result[3]).slice(0, MOST);
      for (const [, name, anchor, about] of names) {
        const line = made("p", "", item);
        made("a", name, line).href = address + anchor;
        line.append(` (${about})`);
      }
      const shown = highlighted.size ? places(page, found) : [];
      if (!names.length && !shown.length) made("p", "In code or a table of results.", item);
      for (const place of shown) {
        const line = made("p", "", item);
        made("a", place.heading, line).href = `${address}#${place.anchor}`;
        line.append(": ", excerpt(place.text, found));
      }
    }
    Search.stopPulse();
    Search.title.textContent = "Search results";
    const many = pages.length === 1 ? "1 page" : `${pages.length} pages`;
    Search.status.textContent = pages.length ? `${many} with “${query}”.` : `Nothing found for “${query}”: try one word, or a part of it.`;
  };
})();
