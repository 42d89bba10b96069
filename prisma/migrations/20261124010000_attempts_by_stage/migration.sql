-- AlterTable
ALTER TABLE "jobs" DROP COLUMN "attempt_stage",
DROP COLUMN "attempts",
ADD COLUMN     "attempts" JSONB NOT NULL DEFAULT '{}';

