"use strict";
// Players: a slider over the steps, and a button. One plays by itself, once and when first seen, unless less motion is wanted.
for (const film of document.querySelectorAll(".film")) {
  const steps = film.dataset.steps.split(" "), last = steps.length - 1;
  const slider = film.querySelector("input"), button = film.querySelector("button"), words = film.querySelector("output");
  let timer = 0;
  const show = (at) => {
    for (const strip of film.querySelectorAll(".film-strip")) {
      strip.style.setProperty("--at", Math.min(at, Number(strip.style.getPropertyValue("--last"))));
    }
    slider.value = at;
    slider.setAttribute("aria-valuetext", `step ${steps[at]} of ${steps[last]}`);
    words.textContent = `k = ${steps[at]} of ${steps[last]}`;
  };
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  const play = () => {
    if (Number(slider.value) >= last) show(0);
    button.textContent = "Pause";
    timer = setInterval(() => {
      show(Number(slider.value) + 1);
      if (Number(slider.value) >= last) stop();
    }, 600);
  };
  film.querySelector(".film-controls").hidden = last === 0;
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  button.addEventListener("click", () => (timer ? stop() : play()));
  if (last > 0 && !matchMedia("(prefers-reduced-motion: reduce)").matches && "IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); play(); }
    }, { threshold: 0.4 });
    seen.observe(film);
  }
}
