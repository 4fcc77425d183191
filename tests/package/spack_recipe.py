#!/usr/bin/env python3
"""spack_recipe.py RECIPE DEPENDENCIES: the Spack recipe runs, and depends on what cmake looks for, no less and no more."""
import re
import runpy
import sys
import types

# What VoronoiDependencies.cmake looks for, as Spack names it; None: part of any system.
NAMES = {"Threads": None, "MPI": "mpi", "HDF5": "hdf5", "Boost": "boost", "OpenSSL": "openssl", "fmt": "fmt", "spdlog": "spdlog",
         "nlohmann_json": "nlohmann-json", "PkgConfig": "pkgconfig", "libpcre2-8": "pcre2", "sentencepiece": "sentencepiece",
         "libutf8proc": "utf8proc", "zlib": "zlib-api", "libzstd": "zstd", "libhwy": "highway", "CUDAToolkit": "cuda", "nccl": "nccl"}
TOOLS = {"c", "cxx", "cmake", "ninja", "gzip"}  # of the build itself

recipe, dependencies = sys.argv[1:]
needed = []


def depends_on(spec, **_):
    needed.append(spec)


class CMakePackage:
    def __init__(self, spec):
        self.spec = types.SimpleNamespace(satisfies=lambda wanted: wanted in spec)

    def define(self, name, value):
        return f"-D{name}={value}"

    def define_from_variant(self, name, variant):
        return f"-D{name}={self.spec.satisfies('+' + variant)}"


def directive(*_, **__):
    pass


spack = types.ModuleType("spack")
package = types.ModuleType("spack.package")
package.__dict__.update(CMakePackage=CMakePackage, depends_on=depends_on, version=directive, variant=directive, license=directive,
                        generator=directive)
sys.modules.update({"spack": spack, "spack.package": package})
voronoi = runpy.run_path(recipe)["Voronoi"]

text = re.sub(r"#.*", "", open(dependencies, encoding="utf-8").read())
packages = re.findall(r"find_package\((\w+)(?: ([0-9.]+))?", text)
modules = re.findall(r"pkg_check_modules\(\w+ REQUIRED IMPORTED_TARGET ([\w-]+)\)", text)
libraries = [name for name in re.findall(r"find_library\(\w+ (\w+)", text)]
looked_for = dict(packages) | {name: "" for name in modules + libraries}
unknown = set(looked_for) - set(NAMES)
assert not unknown, f"cmake looks for {unknown}: add them to the recipe and to NAMES"
wanted = {NAMES[name]: version for name, version in looked_for.items() if NAMES[name]}
given = {re.match(r"[\w-]+", spec).group(): spec for spec in needed}
missing, extra = set(wanted) - set(given), set(given) - set(wanted) - TOOLS
assert not missing, f"the recipe lacks {missing}"
assert not extra, f"the recipe depends on {extra}, which cmake does not look for"
for name, version in wanted.items():
    assert not version or f"@{version}:" in given[name], f"cmake wants {name} {version}, the recipe says {given[name]}"

root_text = open(dependencies.replace("cmake/VoronoiDependencies.cmake", "CMakeLists.txt"), encoding="utf-8").read()
cmake = re.search(r"cmake_minimum_required\(VERSION ([0-9.]+)\)", root_text).group(1)
assert given["cmake"] == f"cmake@{cmake}:", f"cmake is {cmake}, the recipe says {given['cmake']}"
for spec, cuda in (("", "OFF"), ("+cuda+nccl", "ON")):
    arguments = voronoi(spec).cmake_args()
    assert f"-DVORONOI_CUDA={cuda}" in arguments, arguments
    for argument in arguments:
        option = argument[2:].split("=")[0]
        assert option in root_text + text, f"cmake knows no {option}"
print(f"the recipe's {len(given)} dependencies are those of cmake")
