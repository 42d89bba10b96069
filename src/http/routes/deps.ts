import type { Services } from '../../services/index.ts';
import type { UploadLimits } from '../upload.ts';

/** What routes are given. */
export interface RouteDeps {
  services: Services;
  uploads: UploadLimits;
  maxModelBytes: number;
  maxDatasetBytes: number;
}
