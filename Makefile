# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# The rest: `make check` (ruff, mypy), `make test-unit` (under half a minute), `make clean`.
# A service on this host: `sudo make install`, also to upgrade; `sudo make uninstall`. One of several
# hosts with a PostgreSQL: `sudo make install EXTRAS=fleet`.

PYTHON ?= python3
EXTRAS ?=
VENV := .venv
BIN := $(VENV)/bin
NEW_PYTHON = $(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "i2vd needs Python 3.11 or newer: make PYTHON=python3.11")'
NO_HOME = $(PYTHON) -c 'import sys; sys.exit("the service cannot see a Python in a home folder: " + sys.base_prefix if sys.base_prefix.startswith(("/home/", "/root/")) else None)'

.PHONY: demo test test-unit test-example check clean install uninstall

demo: $(VENV)/.installed
	$(BIN)/i2vd demo demo

# Several at a time, a file each (tests/conftest.py): most tests of the whole daemon wait for it more
# than they compute.
test: $(VENV)/.installed-test check
	$(BIN)/pytest -n 4 --no-loadscope-reorder --durations 15 --ignore tests/system/test_example.py

test-unit: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 -m "not slow" --ignore tests/system --ignore tests/pipeline/worker \
		--ignore tests/pipeline/micro

# The README's fleet on four machines, two of them with kernels of their own: minutes by itself.
test-example: $(VENV)/.installed-test
	$(BIN)/pytest tests/system/test_example.py

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# systemd/README.md tells what each step is for. Settings, rules, queue and pictures are kept.
install:
	@test "$$(id -u)" = 0 || { echo "this writes to /opt, /etc and /usr/lib: sudo make install"; exit 1; }
	test -x /opt/i2vd/bin/python || { $(NEW_PYTHON) && $(NO_HOME) && $(PYTHON) -m venv /opt/i2vd; }
	/opt/i2vd/bin/python -m pip install --disable-pip-version-check -c constraints.txt '.$(EXTRAS:%=[%])'
	install -D -m 644 systemd/i2vd.sysusers /usr/lib/sysusers.d/i2vd.conf
	install -D -m 644 systemd/i2vd.tmpfiles /usr/lib/tmpfiles.d/i2vd.conf
	systemd-sysusers i2vd.conf
	systemd-tmpfiles --create i2vd.conf
	test -e /etc/i2vd/i2vd.toml || install -m 644 systemd/i2vd.toml /etc/i2vd/
	test -n "$$(ls /srv/i2vd/rules)" || install -m 644 rules/examples/*.toml /srv/i2vd/rules/
	install -m 644 systemd/i2vd.service systemd/i2vd.socket /etc/systemd/system/
	test "$$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -lt 253 || \
		install -D -m 644 -t /etc/systemd/system/i2vd.service.d systemd/drop-ins/notify-reload.conf
	ln -sf /opt/i2vd/bin/i2vd /usr/local/bin/i2vd
	systemctl daemon-reload
	systemctl try-restart i2vd.service
	@echo "installed. Next: set the model in /etc/i2vd/i2vd.toml, then systemctl enable --now i2vd.service"

uninstall:
	@test "$$(id -u)" = 0 || { echo "this removes files of root: sudo make uninstall"; exit 1; }
	systemctl disable --now i2vd.socket i2vd.service
	rm -rf /opt/i2vd /usr/local/bin/i2vd
	rm -f /usr/lib/sysusers.d/i2vd.conf /usr/lib/tmpfiles.d/i2vd.conf
	rm -f /etc/systemd/system/i2vd.service /etc/systemd/system/i2vd.socket
	rm -f /etc/systemd/system/i2vd.service.d/notify-reload.conf
	systemctl daemon-reload
	@echo "kept: /etc/i2vd, /var/lib/i2vd, /var/cache/i2vd, /srv/i2vd and the user i2vd"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(NEW_PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
