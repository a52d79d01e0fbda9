"""What is built: the content of wheel and sdist, and that an installed wheel trains."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from argparse import ArgumentParser
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path

import pytest

import gpumlp
from gpumlp import cli, train
from gpumlp.config_file import shipped_configs

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CACHES = shutil.ignore_patterns(
    *(".git", ".venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "build", "dist"),
    *("runs", "_gpumlp_native*"),
)
OPTIONS = {
    "--dry-run",
    "--profile",
    "--print-config",
    "--verbose",
    "--config",
    "--set",
    "--run-dir",
    "--overwrite",
    "--resume",
    "--device",
    "--seed",
    "--quiet",
    "--no-progress",
    "--json",
}


def output_of(arguments, folder, **environment):
    """Stdout of a command that succeeds; nothing of this process's Python path reaches it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    result = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def copy_sources(target):
    """Copy what git tracks or would track; where there is no git, all but caches."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(ROOT, target, ignore=CACHES)
        return
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():  # deleted ones are listed too
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def setuptools_is_new_enough():
    try:
        return int(version("setuptools").partition(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The names in the wheel and in the sdist, and the wheel's path."""
    if find_spec("build") is None or not setuptools_is_new_enough():
        pytest.skip("needs build and setuptools >= 77 in this environment; tests install nothing")
    base = tmp_path_factory.mktemp("built")
    checkout = base / "checkout"
    copy_sources(checkout)
    # what git ignores must not travel, wherever it lies
    for name in ("runs/x/model.safetensors", "gpumlp/data/mine.bin", "configs/notes.txt"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("private")
    # without --sdist or --wheel the wheel is built from the sdist, which so proves complete
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", base / "dist", checkout]
    output_of(build, base)
    (wheel,) = (base / "dist").glob("*.whl")
    (sdist,) = (base / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}
    return in_wheel, in_sdist, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The folder of the programs of a fresh environment in which the wheel is installed."""
    return install(built[2], tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def installed_without_compiler(built, tmp_path_factory):
    """The same, of a wheel that was built where there is no C++ compiler."""
    base = tmp_path_factory.mktemp("no_compiler")
    copy_sources(base / "checkout")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", base / "dist"]
    output_of([*build, base / "checkout"], base, CC="/bin/false", CXX="/bin/false")
    (wheel,) = (base / "dist").glob("*.whl")
    return install(wheel, base)


def install(wheel, base):
    """Install a wheel in a fresh environment; return the folder of its programs."""
    output_of([sys.executable, "-m", "venv", "--without-pip", base / "venv"], base)
    programs = base / "venv" / ("Scripts" if os.name == "nt" else "bin")
    if find_spec("pip") is None:
        pytest.skip("needs pip in this environment to install the wheel elsewhere")
    install = ["install", "--no-deps", "--no-index", "--disable-pip-version-check", wheel]
    output_of([sys.executable, "-m", "pip", "--python", programs / "python", *install], base)
    # the dependencies come from here; a .pth stands after the environment's own packages, and the
    # links of editable installs in the folder it names are not followed
    purelib = output_of(
        [programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], base
    ).strip()
    import numpy

    Path(purelib, "dependencies.pth").write_text(str(Path(numpy.__file__).parents[1]))
    return programs


# ------------------------------------------------------------------------------------- content


@pytest.mark.parametrize(
    "name",
    [
        "gpumlp/_configs/digits.toml",
        "gpumlp/data/breast_cancer.npz",
        "gpumlp/data/diabetes.npz",
        "gpumlp/data/digits.npz",
        "gpumlp/data/ATTRIBUTION.md",
        "gpumlp/py.typed",
        f"gpumlp-{gpumlp.__version__}.dist-info/licenses/LICENSE",
    ],
)
def test_the_wheel_has_what_is_no_python(name, built):
    assert name in built[0]


def test_the_wheel_has_every_module_and_every_shipped_configuration(built):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "gpumlp").rglob("*.py")}
    configs = {f"gpumlp/_configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")}
    assert modules | configs <= built[0]
    assert {name for name in built[0] if name.endswith(".py")} == modules


def test_the_wheel_has_nothing_else(built):
    kinds = r"gpumlp/[\w/]+\.(py|toml|npz|cu|h|cpp)|gpumlp/py\.typed|gpumlp/data/ATTRIBUTION\.md"
    kinds += r"|_gpumlp_native\.[\w.-]+"
    info = rf"gpumlp-{re.escape(gpumlp.__version__)}\.dist-info/.+"
    assert not [name for name in built[0] if not re.fullmatch(f"{kinds}|{info}", name)]
    assert not [name for name in built[0] if re.match(r"tests/|benchmarks/|runs/|configs/", name)]


def test_the_wheel_is_small(built):
    assert built[2].stat().st_size < 700_000  # a third of it the native library


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "pyproject.toml",
        "configs/digits.toml",
        "gpumlp/data/breast_cancer.npz",
        "gpumlp/data/diabetes.npz",
        "gpumlp/data/digits.npz",
        "gpumlp/py.typed",
        ".ci/run",
    ],
)
def test_the_sdist_has_what_belongs_to_the_source(name, built):
    assert name in built[1]


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "gpumlp"])
def test_the_sdist_has_every_script_of_a_folder(folder, built):
    scripts = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}
    assert scripts
    assert scripts <= built[1]


def test_the_sdist_has_nothing_private(built):
    private = r"runs/|.*(mine\.bin|notes\.txt|__pycache__|\.pyc)"
    assert not [name for name in built[1] if re.match(private, name)]


# ---------------------------------------------------------------------------------- in use


def test_an_installed_wheel_trains_with_the_shipped_configuration(installed, tmp_path):
    command = [installed / "python", "-m", "gpumlp.train", "--config", "digits"]
    out = output_of([*command, "--set", "train.epochs=1", "--run-dir", "run"], tmp_path)
    assert re.search(r"^test +loss \d\.\d{4}  accuracy 0\.\d{4}$", out, re.M)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


KERNELS = """
from gpumlp.backend.native import load_native
from gpumlp import get_backend
print(get_backend("cpu").native, load_native()[1])
"""


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_an_installed_wheel_has_native_kernels_of_its_own(installed, tmp_path):
    native, _, path = output_of([installed / "python", "-c", KERNELS], tmp_path).partition(" ")
    assert native == "True"
    assert Path(path).is_relative_to(installed.parent)


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_a_checkout_uses_the_native_kernels_that_were_installed(installed, tmp_path):
    """`pip install .` and then `python -m gpumlp.train` in the checkout imports the checkout."""
    copy_sources(tmp_path / "checkout")
    code = "import gpumlp, os; print(os.path.dirname(gpumlp.__file__))" + KERNELS
    out = output_of([installed / "python", "-c", code], tmp_path / "checkout").splitlines()
    assert Path(out[0]) == tmp_path / "checkout" / "gpumlp"
    assert out[1].startswith("True ")


def test_kernels_built_from_other_sources_are_not_used(installed, tmp_path):
    copy_sources(tmp_path / "checkout")
    source = tmp_path / "checkout" / "kernels" / "update.cu"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("const float* lr, float mu", "const float* lr, double mu"))
    out = output_of([installed / "python", "-c", KERNELS], tmp_path / "checkout")
    assert out.startswith("False ")
    assert "not built" in out or "built from other sources" in out


def test_a_wheel_built_without_a_compiler_trains(installed_without_compiler, tmp_path):
    python = installed_without_compiler / "python"
    out = output_of([python, "-c", KERNELS], tmp_path)
    assert out.startswith("False not built")
    command = [python, "-m", "gpumlp.train", "--config", "digits", "--run-dir", "run"]
    out = output_of([*command, "--set", "train.epochs=1"], tmp_path)
    assert re.search(r"^test +loss \d\.\d{4}  accuracy 0\.\d{4}$", out, re.M)


def test_an_installed_wheel_reads_its_own_configurations(installed, tmp_path):
    code = "import gpumlp.config_file as c; print(*c.shipped_configs().values(), sep='\\n')"
    paths = output_of([installed / "python", "-c", code], tmp_path).splitlines()
    assert [Path(path).stem for path in paths] == [*shipped_configs()]
    for path in map(Path, paths):
        assert path.parent.name == "_configs"
        assert path.is_relative_to(installed.parent)


def test_an_installed_wheel_passes_the_documented_example(installed, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = r"^```python\n(import numpy.*?from gpumlp import.*?)^```"
    code = re.search(block, readme, re.M | re.S)[1]
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    assert "accuracy" in output_of([installed / "python", "-I", "example.py"], tmp_path)


def test_the_console_script_says_its_version(installed, tmp_path):
    assert output_of([installed / "gpumlp", "--version"], tmp_path).split() == [
        "gpumlp",
        gpumlp.__version__,
    ]


def test_the_console_script_lists_every_option_of_train(installed, tmp_path):
    text = output_of([installed / "gpumlp", "train", "--help"], tmp_path)
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", text)) >= OPTIONS


def test_the_console_script_trains(installed, tmp_path):
    arguments = ["train", "--config", "digits", "--set", "train.max_steps=1", "-q"]
    out = output_of([installed / "gpumlp", *arguments], tmp_path)
    assert out.splitlines()[-1].startswith("run folder: runs/digits-")


# ------------------------------------------------------------------------ what pyproject.toml says


def test_the_version_is_the_same_everywhere():
    assert PROJECT["project"]["version"] == gpumlp.__version__


def test_the_console_script_is_the_cli():
    assert PROJECT["project"]["scripts"] == {"gpumlp": "gpumlp.cli:main"}
    assert callable(cli.main)
    for script in entry_points(group="console_scripts", name="gpumlp"):
        assert script.load() is cli.main


def test_every_package_is_listed():
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("gpumlp/**/__init__.py")
    }
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert packages <= listed
    mapped = set(PROJECT["tool"]["setuptools"]["package-dir"])
    assert listed - packages == mapped
    for name, folder in PROJECT["tool"]["setuptools"]["package-dir"].items():
        assert name.startswith("gpumlp._")
        assert (ROOT / folder).is_dir()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_every_help_has_a_word_about_every_option(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: gpumlp" in text
    parser = ArgumentParser(add_help=False)
    train.add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    assert known == OPTIONS | {"-q", "-v"}
    for action in parser._actions:
        assert action.help
        assert arguments == ["--help"] or " ".join(action.help.split()) in text
