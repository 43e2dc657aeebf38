"use strict";
document.documentElement.classList.add("js");
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const block = document.getElementById(button.dataset.from);
  const text = Array.from(block.querySelectorAll(".row"), (row) => row.dataset.text ?? row.textContent).join("\n") + "\n";
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  button.textContent = done ? "Copied" : "Select and copy by hand";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});
