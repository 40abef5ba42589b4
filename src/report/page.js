"use strict";
(function () {
  var main = document.querySelector("main");
  var wait = Number(main.dataset.again) * 1000;
  var last = main.innerHTML;
  var timer, done = false;

  // Times as the visitor's clock has them.
  function localise() {
    main.querySelectorAll("time").forEach(function (time) {
      var at = new Date(time.dateTime);
      if (!isNaN(at)) time.textContent = at.toLocaleString(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
    });
  }

  // The service is back, or something else answers: once, and then this page has nothing more to do.
  function leave() {
    clearTimeout(timer);
    done = true;
    // With a fragment the same address would not be loaded.
    if (location.hash) location.reload();
    else location.replace(location.href);
  }

  // Only what changed is replaced, so that nothing flickers and a screen reader does not say everything again.
  function show(text) {
    var next = new DOMParser().parseFromString(text, "text/html");
    var body = next.querySelector("main");
    // The page of the appliance is known by this; anything else is the service itself.
    if (!body || !body.dataset.again) return leave();
    if (body.innerHTML === last) return;
    last = body.innerHTML;
    main.dataset.phase = body.dataset.phase;
    document.title = next.title;
    ["head", "steps"].forEach(function (id) {
      var old = document.getElementById(id), fresh = next.getElementById(id);
      if (old && fresh && old.innerHTML !== fresh.innerHTML) old.innerHTML = fresh.innerHTML;
    });
    localise();
  }

  function look() {
    // A redirect may lead anywhere; that it is one says enough.
    fetch(location.href, { cache: "no-store", redirect: "manual", headers: { Accept: "text/html" } })
      .then(function (answer) {
        if (answer.status !== 503) return leave();
        return answer.text().then(show);
      })
      .catch(function () {})
      .then(function () { if (!done) timer = setTimeout(look, wait); });
  }

  localise();
  timer = setTimeout(look, wait);
})();
