"""Compiles the two C libraries into what is installed. Knows setuptools; all else about the package is in pyproject.toml.

They are opened by ctypes and call no Python: their names carry no Python version, and one wheel serves all."""

import importlib.util
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent


def _native_library():
    """The class of sac_runtime/native/library.py by its path: its package needs numpy, which is not installed yet."""
    spec = importlib.util.spec_from_file_location("native_library", ROOT / "sac_runtime/native/library.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.NativeLibrary


LIBRARIES = {
    f"{library.folder.relative_to(ROOT).as_posix().replace('/', '.')}.lib{library.name}": library
    for library in (
        _native_library()("sac", ROOT / "sac_runtime/native"),
        _native_library()("timing", ROOT / "emulation/timing/native"),
    )
}


class BuildLibraries(build_ext):
    def get_ext_filename(self, fullname):
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext):
        path = Path(self.get_ext_fullpath(ext.name)).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        LIBRARIES[ext.name].compile(path)


class WheelOfAnyPython(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


def _extension(name, library):
    return Extension(name, [path.relative_to(ROOT).as_posix() for path in library.sources if path.suffix == ".c"])


setup(
    ext_modules=[_extension(name, library) for name, library in LIBRARIES.items()],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": WheelOfAnyPython},
)
