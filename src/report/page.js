"use strict";
(function () {
  var main = document.querySelector("main");
  var wait = Number(main.dataset.again) * 1000;
  var last = main.innerHTML;

  // Times as the visitor's clock has them.
  function localise() {
    main.querySelectorAll("time").forEach(function (time) {
      var at = new Date(time.dateTime);
      if (!isNaN(at)) time.textContent = at.toLocaleString(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
    });
  }

  // Only what changed is replaced, so that nothing flickers and a screen reader does not say everything again.
  function show(text) {
    var next = new DOMParser().parseFromString(text, "text/html");
    var body = next.querySelector("main");
    // The page of the appliance is known by this; anything else is the service itself.
    if (!body || !body.dataset.again) return location.replace(location.href);
    if (body.innerHTML === last) return;
    last = body.innerHTML;
    document.title = next.title;
    ["head", "steps"].forEach(function (id) {
      var old = document.getElementById(id), fresh = next.getElementById(id);
      if (old && fresh && old.innerHTML !== fresh.innerHTML) old.innerHTML = fresh.innerHTML;
    });
    localise();
  }

  function look() {
    fetch(location.href, { cache: "no-store", headers: { Accept: "text/html" } })
      .then(function (answer) {
        if (answer.status !== 503) return location.replace(location.href);
        return answer.text().then(show);
      })
      .catch(function () {})
      .then(function () { setTimeout(look, wait); });
  }

  localise();
  setTimeout(look, wait);
})();
