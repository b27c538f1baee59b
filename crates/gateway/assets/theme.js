// Before anything is painted: the colours that were chosen, if any. A classic script, because modules run too late.
try {
  const chosen = localStorage.getItem("edgewise-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be refused; then the system's colours stay.
}
