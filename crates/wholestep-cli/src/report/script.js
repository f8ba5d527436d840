(function () {
  "use strict";
  var root = document.documentElement;

  // Light or dark by hand; without this script the system's choice holds.
  var button = document.createElement("button");
  button.type = "button";
  button.className = "theme";
  function dark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function name() { button.textContent = dark() ? "Light" : "Dark"; }
  button.addEventListener("click", function () { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  name();
  document.querySelector("header").appendChild(button);

  // Values under the pointer go into the legend, which otherwise shows the last epoch.
  document.querySelectorAll("figure.chart").forEach(function (figure) {
    var bands = figure.querySelectorAll(".band");
    if (!bands.length) return;
    var rule = figure.querySelector(".rule");
    var keys = figure.querySelectorAll(".key b");
    var at = figure.querySelector(".at b");
    function show(band) {
      var values = band.dataset.values.split("|");
      keys.forEach(function (key, i) { key.textContent = values[i]; });
      at.textContent = band.dataset.epoch;
      rule.setAttribute("x1", band.dataset.x);
      rule.setAttribute("x2", band.dataset.x);
      rule.style.visibility = "visible";
    }
    bands.forEach(function (band) {
      band.removeChild(band.firstChild);
      band.addEventListener("pointerenter", function () { show(band); });
      band.addEventListener("pointerdown", function () { show(band); });
    });
    figure.querySelector("svg").addEventListener("pointerleave", function () {
      show(bands[bands.length - 1]);
      rule.style.visibility = "hidden";
    });
  });

  addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (d) { d.open = true; });
  });
})();
