#include "jobs/batch_job.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "support/temporary.h"

namespace voronoi::jobs {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(SbatchWords, TakeAnOptionInEverySpellingAndTheLastOfThem) {
  const SbatchWords words({"--nodes=2", "--time", "1:00", "-N", "3", "-c8", "--gres=gpu:h100:4", "-n"});
  EXPECT_EQ(words.value("nodes"), "2");
  EXPECT_EQ(words.value("nodes", 'N'), "3");
  EXPECT_EQ(words.value("time", 't'), "1:00");
  EXPECT_EQ(words.number("cpus-per-task", 'c'), 8);
  EXPECT_EQ(words.number("gres"), 4);
  EXPECT_EQ(words.number("ntasks", 'n'), 0);
  EXPECT_FALSE(words.has("node"));
  EXPECT_FALSE(words.has("partition", 'p'));
  EXPECT_EQ(SbatchWords({"--nodes=2-4"}).number("nodes"), 2);
}

constexpr const char* kOriginal =
    "#!/usr/bin/env bash\n# sbatch MODEL RUN\n#SBATCH --requeue\n#SBATCH --signal=B:USR1@300\nset -u\n# of the "
    "body\nmodel=$1\n";

TEST(BatchScript, PutsTheJobBetweenTheHeadAndTheBody) {
  const std::string script = batch_script(kOriginal, {"a note",
                                                      {"--nodes=2"},
                                                      {"--comment", "two \"words\"", "-N", "3"},
                                                      {"/m", "/it's", "--bits", "2", "--keep-hessians"},
                                                      "/opt/voronoi",
                                                      "/opt/voronoi/bin/voronoi"});
  EXPECT_EQ(script,
            "#!/usr/bin/env bash\n# a note\n#SBATCH --requeue\n#SBATCH --signal=B:USR1@300\n#SBATCH --nodes=2\n"
            "#SBATCH --comment \"two \\\"words\\\"\" -N 3\nexport VORONOI_ROOT=/opt/voronoi\n"
            "export VORONOI=/opt/voronoi/bin/voronoi\nset -- /m '/it'\\''s' \\\n  --bits 2 \\\n  --keep-hessians\n"
            "set -u\n# of the body\nmodel=$1\n");
}

TEST(BatchScript, ALineBreakCannotStandInItsHead) {
  EXPECT_THAT(test::message_of<core::ConfigError>([] {
                batch_script(kOriginal, {"", {}, {"--comment=a\n#SBATCH --exclusive"}, {"/m", "/r"}, "/opt", ""});
              }),
              HasSubstr("line break"));
  EXPECT_THAT(batch_script(kOriginal, {"", {}, {}, {"/m", "/r"}, "/opt", ""}), Not(HasSubstr("VORONOI=")));
}

}  // namespace
}  // namespace voronoi::jobs
