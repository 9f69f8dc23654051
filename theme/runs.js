// Filters the table of all runs; what is searched for stands in the address.
(() => {
  const form = document.getElementById('run-search'), field = form.querySelector('input');
  const count = document.getElementById('runs-shown');
  const rows = [...document.querySelectorAll('table.runs tbody tr')];
  const texts = rows.map(r => [...r.cells].map(c => c.textContent).join(' ').toLowerCase());
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(w => w);
    let n = 0;
    rows.forEach((r, i) => { r.hidden = !words.every(w => texts[i].includes(w)); n += !r.hidden; });
    count.textContent = `${n} of ${rows.length} runs shown`;
  };
  const read = () => { field.value = new URLSearchParams(location.hash.slice(1)).get('q') || ''; show(); };
  const write = () => {
    const q = field.value.trim().replace(/\s+/g, ' ');
    history.replaceState(null, '', q ? '#' + new URLSearchParams({q}).toString().replace(/%2F/g, '/') : '#');
  };
  field.addEventListener('input', () => { show(); write(); });
  form.addEventListener('submit', e => e.preventDefault());
  addEventListener('hashchange', read);
  form.hidden = false;
  read();
})();
