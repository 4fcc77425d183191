# Spack recipe: copy to packages/voronoi/package.py of a Spack repository, set `git` to where the project is kept, and
# `spack install voronoi` (or voronoi +cuda).
from spack.package import *


class Voronoi(CMakePackage):
    """Distributed vector quantization of large language models."""

    homepage = "https://voronoi.invalid"
    git = "https://voronoi.invalid/voronoi.git"

    license("Apache-2.0")

    version("main", branch="main")

    variant("cuda", default=False, description="CUDA module for NVIDIA GPUs")
    variant("nccl", default=True, when="+cuda", description="Hessians travel between GPUs by NCCL")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("gzip", type="build")

    depends_on("mpi")
    depends_on("hdf5~mpi")
    depends_on("boost@1.74:+program_options")
    depends_on("openssl")
    depends_on("fmt")
    depends_on("spdlog+shared")
    depends_on("nlohmann-json")
    depends_on("pcre2")
    depends_on("sentencepiece")
    depends_on("utf8proc")
    depends_on("zlib-api")
    depends_on("zstd")
    depends_on("highway")
    depends_on("cuda@12.8:", when="+cuda")
    depends_on("nccl", when="+nccl")

    generator("ninja")

    def cmake_args(self):
        return [
            self.define("VORONOI_BUILD_TESTS", False),
            self.define("VORONOI_CUDA", "ON" if self.spec.satisfies("+cuda") else "OFF"),
            self.define_from_variant("VORONOI_NCCL", "nccl"),
        ]
