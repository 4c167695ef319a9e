// Runs before the first paint, so that a stored theme does not flash.
{
  const stored = localStorage.getItem("theme");
  // Under a path of a proxy, other applications may share this storage.
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
}
