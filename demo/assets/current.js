// Says which link of the bar leads to the page that is shown, which Streamlit shows by a colour alone; where the bar scrolls, it comes in sight.
export default function ({ data }) {
  const bar = document.querySelector(".st-key-menu");
  [...bar.querySelectorAll("a")].forEach((link, at) => {
    if (at !== data.at) link.removeAttribute("aria-current");
    else if (!link.hasAttribute("aria-current")) {
      link.setAttribute("aria-current", "page");
      bar.scrollLeft = link.getBoundingClientRect().left - bar.getBoundingClientRect().left + bar.scrollLeft - bar.clientWidth / 2 + link.offsetWidth / 2;
    }
  });
}
