// A plotly figure on a page. It is drawn once; what comes afterwards changes its numbers, and leaves where one has
// zoomed, which lines are shown, and how it lies on the page.

const plotly = (address) =>
  (window.interpArithPlotly ??= new Promise((loaded, failed) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = () => loaded(window.Plotly);
    script.onerror = () => failed(new Error(`${address} cannot be loaded`));
    document.head.append(script);
  }));

// The figure's own template, in the colours and letters of the page, whether it is light or dark.
function inColoursOfPage(template, style) {
  const of = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const lines = { gridcolor: of("border-color-light"), linecolor: of("border-color"), zerolinecolor: of("border-color") };
  const clear = "rgba(0,0,0,0)";
  const layout = template?.layout ?? {};
  return {
    ...template,
    layout: {
      ...layout,
      paper_bgcolor: clear,
      plot_bgcolor: clear,
      font: { color: of("text-color"), family: of("font"), size: 12 },
      modebar: { bgcolor: clear, color: of("border-color"), activecolor: of("text-color") },
      xaxis: { ...layout.xaxis, ...lines },
      yaxis: { ...layout.yaxis, ...lines },
    },
  };
}

// On a narrow screen a simple figure fits, its legend below it; any other keeps a width and is moved sideways.
const NARROW = 640;
const FEW = 8;

function fitted(layout) {
  const panels = Object.keys(layout).filter((name) => name.startsWith("xaxis")).length;
  if (panels > 1 || layout.updatemenus?.length || layout.xaxis?.tickvals?.length > FEW) return false;
  layout.legend = { ...layout.legend, orientation: "h", x: 0, y: -0.22, yanchor: "top" };
  layout.margin = { ...layout.margin, l: Math.min(layout.margin?.l ?? 60, 150), r: 10 };
  return true;
}

const wholeScreen = {
  name: "whole screen",
  title: "Whole screen",
  icon: { width: 24, height: 24, path: "M3 3h7v2H5v5H3zM14 3h7v7h-2V5h-5zM3 14h2v5h5v2H3zM19 14h2v7h-7v-2h5z" },
  click: (figure) => (document.fullscreenElement ? document.exitFullscreen() : figure.requestFullscreen()),
};

function begin(parent) {
  const figure = document.createElement("div");
  figure.className = "figure";
  figure.setAttribute("role", "figure");
  parent.append(figure);
  figure.draw = async () => {
    const { spec, file, library } = figure.given;
    const { data, layout } = JSON.parse(spec);
    figure.style.minHeight = `${layout.height ?? 450}px`; // nothing below it moves when it is drawn
    const Plotly = await plotly(library).catch((error) => void (figure.textContent = error.message));
    if (!Plotly || figure.given.spec !== spec || !figure.isConnected) return; // another came meanwhile
    layout.template = inColoursOfPage(layout.template, getComputedStyle(figure));
    figure.classList.toggle("fits", innerWidth <= NARROW && fitted(layout));
    layout.uirevision = file;
    layout.autosize = true;
    if (document.fullscreenElement === figure) layout.height = innerHeight;
    const picture = { format: "png", filename: file, scale: 2 };
    const plain = { displaylogo: false, showSendToCloud: false };
    const options = { ...plain, toImageButtonOptions: picture, modeBarButtonsToAdd: [wholeScreen] };
    await Plotly.react(figure, data, layout, options);
  };
  figure.addEventListener("transitionend", (event) => event.target === figure && figure.draw()); // other colours
  figure.addEventListener("fullscreenchange", () => figure.draw());
  const observed = new ResizeObserver(() => figure.querySelector(".main-svg") && window.Plotly.Plots.resize(figure));
  observed.observe(figure);
  figure.end = () => {
    observed.disconnect();
    window.Plotly?.purge(figure);
  };
  return figure;
}

export default function ({ parentElement, data }) {
  if (!data.spec) {
    plotly(data.library).catch(() => {}); // the browser reads it ahead; the figure says it, if it cannot
    return undefined;
  }
  const figure = parentElement.querySelector(".figure") ?? begin(parentElement);
  if (figure.given?.spec !== data.spec) {
    figure.given = data;
    figure.setAttribute("aria-label", data.title);
    figure.draw();
  }
  return figure.end;
}
