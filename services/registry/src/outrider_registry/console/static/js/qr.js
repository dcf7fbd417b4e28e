// QR codes as SVG that follows the theme: dark on light in both, as scanners want it.
import { html, useMemo } from "./core.js";
import qrcode from "../vendor/qrcode.js";

/** A QR code of a text. */
export function QrCode({ text, size = 168, label }) {
  const { path, cells } = useMemo(() => {
    const code = qrcode(0, "L");
    code.addData(text);
    code.make();
    const n = code.getModuleCount();
    let d = "";
    for (let y = 0; y < n; y++) for (let x = 0; x < n; x++) if (code.isDark(y, x)) d += `M${x + 2} ${y + 2}h1v1h-1z`;
    return { path: d, cells: n + 4 };
  }, [text]);
  return html`
    <svg class="qr" width=${size} height=${size} viewBox=${`0 0 ${cells} ${cells}`} role="img" aria-label=${label} shape-rendering="crispEdges">
      <rect width=${cells} height=${cells} fill="#fff" /><path d=${path} fill="#000" /></svg>`;
}
