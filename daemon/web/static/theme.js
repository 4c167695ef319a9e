// Runs before the first paint, so that a stored theme does not flash.
{
  const stored = localStorage.getItem("theme");
  if (stored) document.documentElement.dataset.theme = stored;
}
