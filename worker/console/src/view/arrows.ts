// Moves and deaths, drawn over the lanes from line to line.

import { arrows, type Arrow, type Mark } from "../marks";
import { clock, plural } from "../format";

const SVG = "http://www.w3.org/2000/svg";
const HEAD = 5;

export interface Point {
  x: number;
  y: number;
}

/** Right or left. */
type Side = 1 | -1;

/** Where a generation's footprint is drawn at a moment. */
export type Finder = (generation: number, unixMs: number) => Point | null;

export function drawArrows(svg: SVGSVGElement, marks: Mark[], spanMs: number, find: Finder): void {
  // What happens within a few pixels is one arrow.
  const together = arrows(marks, spanMs / 150);
  const { width } = svg.getBoundingClientRect();
  svg.replaceChildren(...together.flatMap((arrow) => draw(arrow, width, find)));
}

function draw(arrow: Arrow, width: number, find: Finder): SVGElement[] {
  const from = find(arrow.from, arrow.unix_ms);
  const to = arrow.to === null ? null : find(arrow.to, arrow.unix_ms);
  const at = from ?? to;
  if (!at) return [];
  const group = element("g", { class: `arrow ${arrow.kind}` });
  const title = element("title", {});
  title.textContent = told(arrow);
  group.append(title);
  if (arrow.kind === "death" && from) group.append(cross(from));
  else if (from) group.append(element("circle", { cx: from.x, cy: from.y, r: 2.5, class: "start" }));
  if (to && (!from || Math.abs(to.y - from.y) > 3)) {
    const start = from ?? { x: to.x, y: to.y - 18 };
    // Not beyond the edge.
    const side = start.x > width - 30 ? -1 : 1;
    group.append(...curve(start, to, side));
    const count = arrow.marks.length;
    if (count > 1) group.append(label(start, to, side, String(count)));
  }
  return [group];
}

function curve(from: Point, to: Point, side: Side): SVGElement[] {
  const bulge = Math.min(16, 6 + Math.abs(to.y - from.y) / 12);
  const x = from.x + side * bulge;
  const path = `M${from.x} ${from.y}C${x} ${from.y + (to.y - from.y) * 0.25} ${x} ${to.y - (to.y - from.y) * 0.25} ${to.x} ${to.y}`;
  const down = Math.sign(to.y - from.y) || 1;
  // The head follows the end of the curve, which comes from its side.
  const lean = 3 * side;
  const tip = `M${to.x} ${to.y}L${to.x - HEAD + lean} ${to.y - down * (HEAD + 3)}L${to.x + HEAD + lean} ${to.y - down * (HEAD + 1)}Z`;
  return [
    element("path", { d: path, class: "reach" }),
    element("path", { d: path, class: "way" }),
    element("path", { d: tip, class: "head" }),
  ];
}

function cross({ x, y }: Point): SVGElement {
  return element("path", { d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`, class: "cross" });
}

function label(from: Point, to: Point, side: Side, text: string): SVGElement {
  const middle = element("text", { x: from.x + (side > 0 ? 16 : -22), y: (from.y + to.y) / 2 + 4 });
  middle.textContent = text;
  return middle;
}

function told(arrow: Arrow): string {
  const most = 8;
  const lines = arrow.marks
    .slice(0, most)
    .map((mark) => `${clock(mark.unix_ms)} ${mark.name || mark.session || "no stream"}: ${mark.text}`);
  const more = arrow.marks.length - lines.length;
  const head =
    arrow.kind === "death"
      ? `g${arrow.from} died${arrow.to === null ? "" : `, g${arrow.to} took over`}`
      : `${plural(arrow.marks.length, "move")} from g${arrow.from} to g${arrow.to}`;
  return [head, ...lines, ...(more > 0 ? [`and ${more} more`] : [])].join("\n");
}

function element(name: string, attributes: Record<string, string | number>): SVGElement {
  const made = document.createElementNS(SVG, name) as SVGElement;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}
