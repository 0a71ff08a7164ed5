"use strict";
(() => {
  const root = document.documentElement;
  const themes = ["auto", "light", "dark"];

  // A browser may refuse to remember anything; then the page starts anew each time.
  const remember = (theme) => {
    try { localStorage.setItem("theme", theme); } catch { /* it stays for now */ }
  };
  const remembered = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };

  const show = (theme) => { root.dataset.theme = theme; };
  // Before anything is painted.
  show(themes.includes(remembered()) ? remembered() : "auto");
  root.classList.add("script");

  const switchThemes = (button) => {
    const say = () => {
      const { theme } = root.dataset;
      button.textContent = { auto: "◐", light: "☀", dark: "☾" }[theme];
      button.title = `Theme: ${theme}`;
      button.setAttribute("aria-label", button.title);
    };
    say();
    button.addEventListener("click", () => {
      show(themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length]);
      remember(root.dataset.theme);
      say();
    });
  };

  const openMenu = (button, navigation) => {
    const set = (open) => {
      navigation.classList.toggle("open", open);
      button.setAttribute("aria-expanded", String(open));
    };
    button.addEventListener("click", () => {
      set(!navigation.classList.contains("open"));
      if (!navigation.classList.contains("open")) return;
      navigation.scrollTop = 0;
      navigation.querySelector("a").focus({ preventScroll: true });
    });
    navigation.addEventListener("click", (event) => {
      if (event.target.closest("a")) set(false);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && navigation.classList.contains("open")) {
        set(false);
        button.focus();
      }
    });
  };

  const search = (input, articles, links) => {
    const found = document.getElementById("found");
    const texts = new Map(articles.map((article) => [article, article.textContent.toLowerCase()]));
    const sections = [...document.querySelectorAll("main > section:not(.intro)")];
    const groups = [...document.querySelectorAll("nav > ul > li")];

    const filter = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const article of articles) {
        const fits = words.every((word) => texts.get(article).includes(word));
        article.hidden = !fits;
        links.get(article.id).parentElement.hidden = !fits;
        count += fits;
      }
      for (const section of sections) section.hidden = !section.querySelector("article:not([hidden])");
      for (const group of groups) group.hidden = !group.querySelector("li:not([hidden])");
      document.querySelector(".intro").hidden = words.length > 0;
      found.textContent = words.length ? `${count} of ${articles.length} operations` : "";
    };
    const clear = () => {
      input.value = "";
      filter();
    };

    input.addEventListener("input", () => {
      filter();
      scrollTo({ top: 0, behavior: "instant" });
    });
    input.addEventListener("keydown", (event) => {
      const first = articles.find((article) => !article.hidden);
      if (event.key === "Escape") clear();
      if (event.key === "Enter" && input.value && first) first.querySelector("h3 a").focus();
    });
    document.addEventListener("keydown", (event) => {
      const typing = event.target.closest("input, textarea");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        input.focus();
      }
    });
    addEventListener("hashchange", () => {
      const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (target && target.closest("[hidden]")) {
        clear();
        target.scrollIntoView();
      }
    });
  };

  const follow = (articles, links) => {
    const inView = new Set();
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) inView.add(target); else inView.delete(target);
      }
      const current = articles.find((article) => inView.has(article));
      for (const [id, link] of links) {
        if (current && id === current.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }, { rootMargin: "-15% 0px -60% 0px" });
    for (const article of articles) observer.observe(article);
  };

  // Only pages from this machine or over TLS may write to the clipboard.
  const copyable = (block) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
  };

  document.addEventListener("DOMContentLoaded", () => {
    const articles = [...document.querySelectorAll("article")];
    const navigation = document.getElementById("navigation");
    const links = new Map(
      [...navigation.querySelectorAll("li li a")].map((link) => [link.hash.slice(1), link]),
    );
    if (location.protocol.startsWith("http")) {
      for (const origin of document.querySelectorAll(".origin")) origin.textContent = location.origin;
    }
    if (navigator.clipboard) document.querySelectorAll(".code").forEach(copyable);
    switchThemes(document.getElementById("theme"));
    openMenu(document.getElementById("menu"), navigation);
    search(document.getElementById("query"), articles, links);
    follow(articles, links);
  });
})();
