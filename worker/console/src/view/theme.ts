// Light, dark, or as the machine has it.

export type Theme = "auto" | "light" | "dark";

const KEY = "tasuki-theme";

export function storedTheme(): Theme {
  const stored = localStorage.getItem(KEY);
  return stored === "light" || stored === "dark" ? stored : "auto";
}

export function applyTheme(theme: Theme): void {
  if (theme === "auto") {
    localStorage.removeItem(KEY);
    delete document.documentElement.dataset["theme"];
  } else {
    localStorage.setItem(KEY, theme);
    document.documentElement.dataset["theme"] = theme;
  }
  colours.clear();
  window.dispatchEvent(new Event("tasuki-theme"));
}

const colours = new Map<string, string>();

/** A colour of style/colours.css, for what is drawn on a canvas. */
export function colour(name: string): string {
  let value = colours.get(name);
  if (value === undefined) {
    // The variable itself holds both schemes' colours: an element that wears it has the one that counts.
    const wearer = document.createElement("i");
    wearer.style.color = `var(${name})`;
    document.body.append(wearer);
    value = getComputedStyle(wearer).color;
    wearer.remove();
    colours.set(name, value);
  }
  return value;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colours.clear();
  window.dispatchEvent(new Event("tasuki-theme"));
});
